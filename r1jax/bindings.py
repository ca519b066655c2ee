"""From gin files and bindings to Runs; the only file that knows gin.

A recipe file binds recipe.Recipe, a stage file the `Run` of one stage. Every stage becomes one frozen Run before any
work; bindings that nothing used are refused; the operative config is written beside the checkpoints and reloads to an
equal Run. Every mistake is a UserError of one line, with file and line number.

gin keeps its bindings in globals of `gin.config`, which are read here where it has no call for them.
"""

import contextlib
import dataclasses
import difflib
import importlib.util  # noqa: F401  gin uses it without importing it
import io
import os
import re
import sys
import tokenize
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, TextIO

import gin
from etils import epath
from gin import config_parser

from r1jax.base.fields import UserError, require
from r1jax.base.files import absolute, write_atomically
from r1jax.base.place import Place
from r1jax.recipe import Recipe

LOCATION = re.compile(r'\n\s*In file "(.*?)", line (\d+)')  # as gin appends it to what it raises
PLAINER = [  # what gin says, and the same in plainer words; a last group named `wrong` is what may be misspelt
    (r"Configurable '(.*)' doesn't have a parameter named '(?P<wrong>.*)'\.", r"\1 has no parameter \2"),
    (r"Couldn't resolve selector (.*); .* has no attribute (?P<wrong>\w+)\.", r"\1: there is no \2"),
    (r"'(?P<wrong>.*)' was not provided by an import statement\.", r"\1 is not imported here"),
    (r"(\w+)\.__init__\(\) missing \d+ required .*?: (.*)", r"\1 wants a value for \2"),
    (r"malformed node or string(?s:.*)Failed to parse token (.*)", r"\1 is no value; a string wants quotes"),
    (r"not enough values to unpack .*", "a name that is bound wants three parts, MODULE.CLASS.PARAMETER"),
    (r"maximum recursion depth exceeded.*", "a macro or a reference leads back to itself"),
]
Scoped = tuple[str, str]  # gin's key of what is configured: (scope, selector); a macro is (its name, 'gin.macro')
Key = tuple[str, str, str]  # of what is bound: (scope, selector, parameter)
Keys = dict[Key, set[str]]  # with the scopes of nearer bindings, which win


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage, ready to run: its module, its Run, and the operative config that rebuilds it."""

    module: ModuleType
    run: Any
    config: str


@dataclasses.dataclass
class Extra:
    """A --gin_file or a --gin.NAME=VALUE. said: as the user gave it. unused: its keys that no stage used so far, None
    before any took it."""

    flag: str
    said: str
    unused: Keys | None = None

    def used_but(self, unused: Keys) -> None:
        before = unused if self.unused is None else self.unused
        self.unused = {key: before[key] | nearer for key, nearer in unused.items() if key in before}


def load(files: list[str], gin_files: list[str], overrides: list[str]) -> dict[str, dict[str, Stage]]:
    """Every stage of every file, built and checked: {recipe name: {stage name: Stage}}."""
    for file in files + gin_files:
        absolute(file)  # refuses what no path is
    extras = [Extra(given, given) for given in gin_files + overrides]
    plans: dict[str, tuple[dict[str, epath.Path], list[Extra]]] = {}
    for file in map(epath.Path, files):
        name, stages, own = _plan(file, extras)
        require(name not in plans, f"{file}: a recipe named {name!r} was given already")
        plans[name] = stages, own
    names = {stage for stages, _ in plans.values() for stage in stages}
    recipes = {
        name: {stage: _stage(stage, file, own + extras, names) for stage, file in stages.items()}
        for name, (stages, own) in plans.items()
    }
    for extra in [extra for _, own in plans.values() for extra in own] + extras:
        scope, _, name = extra.flag.removeprefix("--gin.").partition("=")[0].rpartition("/")
        name = name.partition(".")[0]
        require(extra.unused is not None, f"{extra.said}: no stage imports or defines {name!r}{_meant(name)}")
        stage = _meant(scope, names) if extra.flag.startswith("--gin.") and scope not in names else ""
        require(not extra.unused, f"{extra.said}: no stage uses {_named(extra.unused or {})}{stage}")
    return recipes


def _plan(file: epath.Path, extras: list[Extra]) -> tuple[str, dict[str, epath.Path], list[Extra]]:
    """(recipe name, {stage name: file}, the recipe's own bindings). A stage file alone is a recipe of one stage with
    the file's name."""
    gin.clear_config()
    keys = _parse(file)
    if not _bound_classes(lambda cls: cls is Recipe):
        return file.stem, {file.stem: file}, []
    referenced = _referenced()
    built, _ = _build(Recipe, str(file), keys, referenced, _take(extras, None, set()))
    stages = {stage: epath.Path(os.path.normpath(file.parent / path)) for stage, path in built.stages.items()}
    return built.name, stages, [Extra(f"--gin.{b}", f"{file}: recipe.Recipe.bindings: {b!r}") for b in built.bindings]


def _stage(name: str, file: epath.Path, extras: list[Extra], names: set[str]) -> Stage:
    gin.clear_config()
    keys = _parse(file)
    runs = _bound_classes(lambda cls: cls.__name__ == "Run" and hasattr(sys.modules[cls.__module__], "describe"))
    bound = " and ".join(f"{cls.__module__}.Run" for cls in runs) or "no Run"
    require(len(runs) == 1, f"{file} binds {bound}: a stage file binds exactly one Run, a recipe file recipe.Recipe")
    referenced = _referenced()
    run, config = _build(runs[0], str(file), keys, referenced, _take(extras, name, names))
    return Stage(sys.modules[runs[0].__module__], run, config)


def _take(extras: list[Extra], stage: str | None, names: set[str]) -> list[tuple[Extra, Keys]]:
    """Binds the extras that concern a stage (None: a recipe file), in order; returns them with the keys they bound."""
    taken = []
    for extra in extras:
        if not extra.flag.startswith("--gin."):
            if stage is not None:
                taken.append((extra, _nearer(_parse(epath.Path(extra.flag)))))
            continue
        name, value = extra.flag.removeprefix("--gin.").split("=", 1)
        scope, _, rest = name.partition("/")
        require(name not in names, f"{extra.said}: {name} is a stage; write {name}/MODULE.CLASS.PARAMETER=VALUE")
        if scope in names:
            if scope != stage:
                continue
            name = rest
        imports = {statement.bound_name(): statement.format() for statement in gin.config._IMPORTS}
        module, dot, _ = name.rpartition("/")[2].partition(".")
        macro = (name, "gin.macro") in gin.config._CONFIG
        bare = not dot and not macro and module in imports
        require(not bare, f"{extra.said}: {module} is a module; write {name}.CLASS.PARAMETER=VALUE")
        if module in imports if dot else macro:
            lines = [*sorted(imports.values()), f"{name} = {_literal(value)}"]  # __gin__ sorts first, as it must
            try:
                taken.append((extra, _nearer(_parse_text("\n".join(lines), None, epath.Path(".")))))
            except UserError as error:
                raise UserError(f"{extra.said}: {error}") from error
    return taken


def _parse(file: epath.Path) -> set[Key]:
    """Adds a file's bindings to gin's and returns their keys."""
    require(not file.is_dir(), f"{file} is a folder, wanted a gin file")
    require(file.is_file(), f"{file}: there is no such file")
    try:
        return _parse_text(file.read_text(), str(file), file.parent)
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no text file: {error}") from error


def _parse_text(text: str, name: str | None, folder: epath.Path) -> set[Key]:
    """The same for a text. Its includes are looked for in `folder` and beside it (models/x.gin), one level deep."""
    config = gin.config
    before = {key: dict(bound) for key, bound in config._CONFIG.items()}
    config._CONFIG.clear()  # so that the keys of this text are seen
    config._FILE_READERS[:] = [(_reader(), os.path.isfile)]  # not gin's, of which one looks into packages and complains
    config._LOCATION_PREFIXES[:] = [os.fspath(folder.resolve()), os.fspath(folder.resolve().parent)]
    source = io.StringIO(text)
    source.name = name
    try:
        gin.parse_config(source)
    except Exception as error:
        raise _mistake(error, name) from error
    keys = {(*key, parameter) for key, bound in config._CONFIG.items() for parameter in bound}
    for key, bound in before.items():
        config._CONFIG[key] = bound | config._CONFIG.get(key, {})
    return keys


def _reader() -> Callable:
    """What opens the files that a text includes. gin holds one open while it follows the includes in it."""
    opened = []

    @contextlib.contextmanager
    def read(path: str) -> Iterator[TextIO]:
        require(not opened, f"{''.join(opened)} includes files in turn; includes go one level deep")
        opened.append(path)
        with open(path) as file:
            yield file
        opened.clear()

    return read


def _literal(value: str) -> str:
    """The value as gin shall read it: quoted unless it is a literal, an @reference or a %macro."""

    class AnyName(config_parser.ParserDelegate):
        def configurable_reference(self, *_):
            return None

        def macro(self, *_):
            return None

    try:
        parser = config_parser.ConfigParser(value, AnyName())
        parser.parse_value()
        whole = parser.current_token.type in (tokenize.NEWLINE, tokenize.ENDMARKER)
    except (SyntaxError, tokenize.TokenError):
        whole = False
    return value if whole else repr(value)


def _bound_classes(wanted) -> list[type]:
    found = {gin.config._REGISTRY[selector].wrapped for _, selector in gin.config._CONFIG}
    return sorted((cls for cls in found if isinstance(cls, type) and wanted(cls)), key=lambda cls: cls.__module__)


def _build(
    cls: type, file: str, keys: set[Key], referenced: set[Scoped], extras: list[tuple[Extra, Keys]]
) -> tuple[Any, str]:
    """(the object that the bindings describe, the operative config).

    UserError when nothing used one of the file's keys. What the file itself refers to counts as used: an override may
    have displaced the reference, as --gin.pretrain.Run.steps=10 does in a file that says steps = %STEPS.
    """
    for parameter, value in [item for bound in gin.config._CONFIG.values() for item in bound.items()]:
        for reference in gin.config.iterate_references([value]):
            macro = reference.config_key
            defined = macro[1] != "gin.macro" or macro in gin.config._CONFIG
            require(defined, f"{file}: {parameter} = {reference!r}, a macro that nobody defines")
    try:
        gin.finalize()
        built = gin.get_configurable(cls)()
    except Exception as error:
        raise _mistake(error, file) from error
    entered = set(gin.config._OPERATIVE_CONFIG)
    unused = _unused(dict.fromkeys(keys, set()), entered | referenced)
    require(not unused, f"{file}: nothing uses {_named(unused)}")
    for extra, bound in extras:
        extra.used_but(_unused(bound, entered))
    return built, gin.operative_config_str(max_line_length=120)


def _referenced() -> set[Scoped]:
    return {reference.config_key for reference in gin.config.iterate_references(gin.config._CONFIG)}


def _nearer(keys: set[Key]) -> Keys:
    """The keys with the scopes inside theirs where the same parameter is bound so far."""
    return {
        (scope, selector, parameter): {
            inner
            for (inner, other), bound in gin.config._CONFIG.items()
            if other == selector and parameter in bound and inner != scope and _within(inner, scope)
        }
        for scope, selector, parameter in keys
    }


def _within(inner: str, scope: str) -> bool:
    return f"{inner}/".startswith(scope and f"{scope}/")


def _unused(keys: Keys, entered: set[Scoped]) -> Keys:
    """The keys that apply to none of the configurables entered, with the scopes that hide them there: a binding holds
    in its scope and in all inside it but where a nearer one does."""
    unused = {}
    for (scope, selector, parameter), nearer in keys.items():
        inside = [inner for inner, other in entered if other == selector and _within(inner, scope)]
        hiding = [{hider for hider in nearer if _within(inner, hider)} for inner in inside]
        if all(hiding):
            unused[scope, selector, parameter] = set().union(*hiding)
    return unused


def _named(keys: Keys) -> str:
    """Keys in the words of a gin file: 'macro STEPS; eval/sampling.Sampling.temperature'."""
    names = []
    for (scope, selector, parameter), nearer in sorted(keys.items()):
        wrapped = gin.config._REGISTRY[selector].wrapped
        name = f"{wrapped.__module__.rpartition('.')[2]}.{wrapped.__qualname__}.{parameter}"
        inner = " and ".join(f"{scope}/{name}" for scope in sorted(nearer))
        hidden = f", for {inner} is bound nearer to where it counts: bind that" if nearer else ""
        names.append(f"macro {scope}" if selector == "gin.macro" else f"{scope and scope + '/'}{name}{hidden}")
    return "; ".join(names)


def _mistake(error: Exception, name: str | None) -> Exception:
    """The user's mistake behind what gin raised, in one line with file and line; a bug of ours comes back as it is."""
    said = str(error)
    if isinstance(error, SyntaxError):
        at, said = (error.filename and f"{error.filename}:{error.lineno}"), error.msg
    elif isinstance(error, tokenize.TokenError):
        at, said = (name and f"{name}:{error.args[1][0]}"), error.args[0]
    else:
        innermost = traceback.extract_tb(error.__traceback__)[-1].filename
        raised = UserError | ModuleNotFoundError | RecursionError  # the last, of a circle, wherever the stack ended
        expected = isinstance(error, raised) or os.path.dirname(innermost) == gin.__path__[0]
        if not expected:
            return error
        found = LOCATION.search(said)
        at = f"{found[1]}:{found[2]}" if found else name
    for pattern, plain in PLAINER:
        if found := re.match(pattern, said):
            said = found.expand(plain) + _meant(found.groupdict().get("wrong"))
    said = said.strip().splitlines()[0] if said.strip() else type(error).__name__
    return UserError(f"{at}: {said}" if at else said)


def _meant(wrong: str | None, names: set[str] | None = None) -> str:
    """'; is NAME meant?' where one of the names is spelt like `wrong`: by default of the modules, classes and
    parameters that the gin files know."""
    if names is None:
        names = set()
        for selector, configurable in gin.config._REGISTRY.items():
            names.update(selector.split("."), getattr(configurable.wrapped, "__dataclass_fields__", ()))
    found = difflib.get_close_matches(wrong or "", names - {wrong}, 1)
    return f"; is {found[0]} meant?" if found else ""


def begin(stages: dict[str, Stage], place: Place) -> Callable[[], None]:
    """Says what differs from the config.gin that is there, and returns what writes the new one. A complete stage keeps
    the one that it ran with."""
    stage = stages[place.name]
    path = place.folder / "config.gin"
    if path.exists():
        gin.clear_config()
        try:
            before, _ = _build(type(stage.run), str(path), _parse(path), set(), [])
        except UserError as error:
            print(f"{place.name}: the config that it began with does not load any more: {error}")
        else:
            if changes := "; ".join(_differences(before, stage.run, type(stage.run).__name__)):
                print(f"{place.name}: {changes}{' (the stage is complete and stays as it is)' if place.done else ''}")
    return partial(write_atomically, path, stage.config)


def _differences(before: Any, now: Any, path: str) -> Iterator[str]:
    if type(before) is not type(now) or not dataclasses.is_dataclass(now):
        if before != now:
            yield f"{path} was {before!r}, is now {now!r}"
        return
    for field in dataclasses.fields(now):
        yield from _differences(getattr(before, field.name), getattr(now, field.name), f"{path}.{field.name}")
