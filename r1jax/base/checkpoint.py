"""Checkpoints of a stage: numbered steps, each a few named trees of arrays and one JSON item `host`.

Orbax writes them asynchronously and sharded; a step becomes visible only when it is whole. On disk a tree is nested
dicts of arrays, whatever NamedTuples or dataclasses it had in memory, and free of any mesh: `restore` lays it out anew.

Traps. Leaves are arrays of jax or numpy; counters and seeds go into `host`, typed random keys nowhere. While a save
runs, donating the saved arrays costs a copy (count the state twice), and numpy arrays are read in the background: do
not change them after `save`. Orbax's own `max_to_keep` with a best metric deletes the newest step, so retention is a
policy of the latest and the best; without `best_fn` as well, the metrics would never reach the disk.
"""

import copy
import json
import logging
import operator
import sys
from collections.abc import Callable

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import NamedSharding

from r1jax.base.fields import UserError
from r1jax.base.files import absolute

Tree = object  # any pytree
absl.logging.set_verbosity("error")  # Orbax tells its life story at lower levels


class Store:
    """The checkpoints under `folder`. Reading creates nothing; the first `save` makes the folder.

    Keeps the `latest` newest steps, with best > 0 the `best` ones with the highest `metric`, and what the newest build
    on: an older step that their `host` names under the key `builds_on`.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        *,
        latest: int = 2,
        best: int = 0,
        metric: str | None = None,
        builds_on: str | None = None,
    ):
        self.folder = absolute(folder)
        self._builds_on, self._saved = builds_on, {}
        policy = ocp.checkpoint_managers
        keep, best_fn = [policy.LatestN(latest), _BuiltOn(latest, self._base)], None
        if best:
            best_fn = operator.itemgetter(metric)
            keep.append(policy.BestN(get_metric_fn=best_fn, n=best, keep_checkpoints_without_metrics=False))
        self._options = ocp.CheckpointManagerOptions(
            preservation_policy=policy.AnyPreservationPolicy(keep), best_fn=best_fn, cleanup_tmp_directories=True
        )
        self._manager: ocp.CheckpointManager | None = None

    def steps(self) -> list[int]:
        """The complete steps, in order. A save under way is not among them until it is whole."""
        return sorted(ocp.utils.checkpoint_steps(self.folder)) if self.folder.exists() else []

    def latest(self) -> int | None:
        """The newest complete step, or None."""
        return max(self.steps(), default=None)

    def save(self, step: int, arrays: dict[str, Tree], host: dict, metrics: dict[str, float] | None = None) -> None:
        """Starts to write a step and returns; waits first for the save before it. All processes must call it.

        Every key of `arrays` becomes an item that can be restored alone. `host` is JSON.
        """
        if self._manager is None:
            self._manager = ocp.CheckpointManager(self.folder, options=self._options)
        items = {name: _nest(_flat(tree)) for name, tree in arrays.items()}
        saves = {name: ocp.args.StandardSave(tree) for name, tree in items.items() if tree}  # Orbax refuses empty ones
        self._saved = {step: copy.deepcopy(host)}  # written in the background, while the caller moves on
        saves["host"] = ocp.args.JsonSave(self._saved[step])
        self._manager.save(step, args=ocp.args.Composite(**saves), metrics=metrics, force=True)

    def restore(self, step: int, like: dict[str, Tree]) -> tuple[dict[str, Tree], dict]:
        """(arrays, host) of a step, of `arrays` only the items in `like`. All processes must call it.

        The leaves of `like` (arrays or ShapeDtypeStructs) say shape, dtype (cast if it differs) and sharding; those
        without a sharding come back as numpy. UserError, in one line, when the step is missing, cut short or otherwise
        unreadable, or holds other parameters or other shapes.
        """
        host = self.host(step)
        arrays = {name: self._item(step, name, tree) for name, tree in like.items()}
        return arrays, host

    def host(self, step: int) -> dict:
        """The JSON item of a step."""
        path = self._path(step) / "host" / "metadata"
        try:
            host = json.loads(path.read_text())
            if not isinstance(host, dict):
                raise ValueError("its host item is no JSON object")
            return host
        except (OSError, ValueError) as error:
            raise _unreadable(self._path(step), error) from error

    def wait(self) -> None:
        """Returns when the save under way, if any, is whole on the disk; raises what made it fail."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go of the background threads."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _base(self, step: int) -> int | None:
        """The step that a step builds on; the one that is being saved is not on the disk yet."""
        if self._builds_on is None:
            return None
        host = self._saved[step] if step in self._saved else self.host(step)
        return host.get(self._builds_on)

    def _path(self, step: int) -> epath.Path:
        path = self.folder / str(step)
        if not path.exists():
            steps = ", ".join(map(str, self.steps()))
            there = f"steps {steps} are there" if steps else "no checkpoint is there"
            raise UserError(f"no checkpoint of step {step} in {self.folder}: {there}")
        return path

    def _item(self, step: int, name: str, like: Tree) -> Tree:
        path = self._path(step) / name
        wanted = {key: _target(leaf) for key, leaf in _flat(like).items()}
        if wanted:
            if not path.exists():
                items = ", ".join(sorted(item.name for item in self._path(step).iterdir() if item.is_dir()))
                raise UserError(f"checkpoint {self._path(step)} has no item {name!r}; it has {items}")
            wanted = _read(path, wanted)
        leaves = [wanted[key] for key in _flat(like)]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)


class _BuiltOn(ocp.checkpoint_managers.PreservationPolicy):
    """Preserves the steps that the `latest` newest build on."""

    def __init__(self, latest: int, base: Callable[[int], int | None]):
        self._latest, self._base = latest, base

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        bases = {self._base(checkpoint.step) for checkpoint in checkpoints[-self._latest :]}
        return [checkpoint.step in bases for checkpoint in checkpoints]


def _flat(tree: Tree) -> dict[tuple[str, ...], object]:
    """The leaves by path: a NamedTuple's field, a dict's key and a dataclass's attribute are all just names."""
    flat = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        flat[tuple(jax.tree_util.keystr((key,), simple=True) for key in path) or ("value",)] = leaf
    return flat


def _nest(flat: dict[tuple[str, ...], object]) -> dict:
    tree: dict = {}
    for (*parents, last), leaf in flat.items():
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def _target(leaf):
    """What Orbax shall make of a leaf. A sharding from `jax.eval_shape` is abstract: the mesh in force is meant."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        return np.empty(leaf.shape, leaf.dtype)
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, jax.sharding.AbstractMesh):
        mesh = jax.sharding.get_mesh()
        if mesh.empty:
            raise ValueError("restore() with shardings of an abstract mesh needs jax.set_mesh")
        sharding = NamedSharding(mesh, sharding.spec)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _read(path: epath.Path, wanted: dict) -> dict:
    """Reads one item. A damaged file makes each of Orbax's pending reads complain on stderr: one line says it all."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    asyncio_log = logging.getLogger("asyncio")
    level = asyncio_log.level
    asyncio_log.setLevel(logging.CRITICAL)
    reader = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    try:
        index = reader.metadata(path).item_metadata
        if index is None:
            raise ValueError("its index is damaged")
        _compare(path, wanted, _flat(index.tree))
        read = _flat(reader.restore(path, args=ocp.args.StandardRestore(_nest(wanted))))
    except UserError:
        raise
    except Exception as error:  # whatever the broken byte leads to
        raise _unreadable(path, error) from error
    sys.unraisablehook = hook
    asyncio_log.setLevel(level)
    reader.close()
    return read


def _compare(path: epath.Path, wanted: dict, stored: dict) -> None:
    missing, extra = sorted(wanted.keys() - stored.keys()), sorted(stored.keys() - wanted.keys())
    if missing or extra:
        said = [f"{what} {_listed(keys)}" for what, keys in (("lacks", missing), ("has in addition", extra)) if keys]
        raise UserError(f"checkpoint {path} is of another model or optimizer: it {' and '.join(said)}")
    for key, leaf in wanted.items():
        shape = tuple(stored[key].shape)
        if leaf.shape != shape:
            raise UserError(f"checkpoint {path}: {'/'.join(key)} is stored as {shape}, this run wants {leaf.shape}")


def _listed(keys: list[tuple[str, ...]]) -> str:
    names = ", ".join("/".join(key) for key in keys[:3])
    return names + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _unreadable(path: epath.Path, error: Exception) -> UserError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    return UserError(
        f"checkpoint {path} cannot be read, it may have been cut short ({first}): "
        "remove that step's folder to go on from the step before it"
    )
