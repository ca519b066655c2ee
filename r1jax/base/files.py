"""Writing files so that a reader, or a run killed at any instant, never meets half a file."""

import importlib.util
import json
import os

from etils import epath

from r1jax.base.fields import UserError, require


def is_local(path: epath.PathLike) -> bool:
    """Whether the path lies in this machine's file system (and not at gs://, s3://, ...)."""
    return "://" not in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """The path from the root, `~` expanded; one of an object store as it is: epath's own `resolve` makes a local folder
    of it. UserError where epath cannot reach that store: it does so by TensorFlow if that is there, else by fsspec."""
    if is_local(path):
        return epath.Path(path).expanduser().resolve()
    import fsspec  # lazily: most runs are local

    try:
        found = epath.Path(path)
        if importlib.util.find_spec("tensorflow") is None:
            fsspec.get_filesystem_class(os.fspath(path).partition("://")[0])
    except KeyError as error:
        raise UserError(f"{path}: no such kind of store is known; give a folder, or gs://, s3:// or az://") from error
    except ImportError as error:
        raise UserError(f"{path}: {error} with pip, or mount the store and give its folder") from error
    return found


def write_atomically(path: epath.PathLike, data: str | bytes) -> None:
    """Puts a whole file at `path`, replacing what is there: a new file beside it, synced, then renamed.

    Object stores publish an object only when it is complete, so there the plain write is atomic already.
    """
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = data.encode() if isinstance(data, str) else data
    if not is_local(path):
        path.write_bytes(data)
        return
    unfinished = path.parent / f".{path.name}.unfinished"
    with open(unfinished, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def append(path: epath.PathLike, text: str) -> None:
    """Adds text at the end of a file. Object stores cannot append: there the object is written anew."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_local(path):
        path.write_text((path.read_text() if path.exists() else "") + text)
        return
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def read_json(path: epath.PathLike, kind: type = dict, remedy: str = "mend it, or move it away"):
    """The JSON of a file that is there: an object, or what else `kind` says. UserError, which names the file, the place
    in it and the remedy, where it is cut short or of another kind."""
    path = epath.Path(path)
    try:
        value = json.loads(path.read_text())
    except ValueError as error:  # no JSON, or not even text
        raise UserError(f"{path} is no JSON ({error}): {remedy}") from error
    wanted = {dict: "an object", list: "a list"}.get(kind, kind.__name__)
    require(isinstance(value, kind), f"{path} holds {type(value).__name__} in JSON, wanted {wanted}: {remedy}")
    return value
