"""From gin files and bindings to Runs; the only file that knows gin.

A recipe file binds recipe.Recipe, a stage file the `Run` of one stage. Every stage becomes one frozen Run before any
work; bindings that nothing used are refused; the operative config is written beside the checkpoints and reloads to an
equal Run. Every mistake is a UserError of one line, with file and line number.

gin keeps its bindings in globals of `gin.config`, which are read here where it has no call for them.
"""

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
from typing import Any

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
]
Key = tuple[str, str]  # gin's key of what is bound: (scope, selector); a macro is (its name, 'gin.macro')


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage, ready to run: its module, its Run, and the operative config that rebuilds it."""

    module: ModuleType
    run: Any
    config: str


@dataclasses.dataclass
class Extra:
    """A --gin_file or a --gin.NAME=VALUE. `unused`: its keys that no stage used so far, None before any took it."""

    flag: str
    unused: set[Key] | None = None

    def used_but(self, unused: set[Key]) -> None:
        self.unused = unused if self.unused is None else self.unused & unused


def load(files: list[str], gin_files: list[str], overrides: list[str]) -> dict[str, dict[str, Stage]]:
    """Every stage of every file, built and checked: {recipe name: {stage name: Stage}}."""
    for file in files + gin_files:
        absolute(file)  # refuses what no path is
    extras = [Extra(file) for file in gin_files] + [Extra(override) for override in overrides]
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
        name = extra.flag.removeprefix("--gin.").partition("=")[0].rpartition("/")[2].partition(".")[0]
        require(extra.unused is not None, f"{extra.flag}: no stage imports or defines {name!r}{_meant(name)}")
        require(not extra.unused, f"{extra.flag}: no stage uses {_named(extra.unused or set())}")
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
    return built.name, stages, [Extra(f"--gin.{binding}") for binding in built.bindings]


def _stage(name: str, file: epath.Path, extras: list[Extra], names: set[str]) -> Stage:
    gin.clear_config()
    keys = _parse(file)
    runs = _bound_classes(lambda cls: cls.__name__ == "Run" and hasattr(sys.modules[cls.__module__], "describe"))
    bound = " and ".join(f"{cls.__module__}.Run" for cls in runs) or "no Run"
    require(len(runs) == 1, f"{file} binds {bound}: a stage file binds exactly one Run, a recipe file recipe.Recipe")
    referenced = _referenced()
    run, config = _build(runs[0], str(file), keys, referenced, _take(extras, name, names))
    return Stage(sys.modules[runs[0].__module__], run, config)


def _take(extras: list[Extra], stage: str | None, names: set[str]) -> list[tuple[Extra, set[Key]]]:
    """Binds the extras that concern a stage (None: a recipe file), in order; returns them with the keys they bound."""
    taken = []
    for extra in extras:
        if not extra.flag.startswith("--gin."):
            if stage is not None:
                taken.append((extra, _parse(epath.Path(extra.flag))))
            continue
        name, value = extra.flag.removeprefix("--gin.").split("=", 1)
        scope, _, rest = name.partition("/")
        if scope in names:
            if scope != stage:
                continue
            name = rest
        imports = {statement.bound_name(): statement.format() for statement in gin.config._IMPORTS}
        module, dot, _ = name.rpartition("/")[2].partition(".")
        if module in imports if dot else (name, "gin.macro") in gin.config._CONFIG:
            lines = [*sorted(imports.values()), f"{name} = {_literal(value)}"]  # __gin__ sorts first, as it must
            try:
                taken.append((extra, _parse_text("\n".join(lines), None, epath.Path("."))))
            except UserError as error:
                raise UserError(f"{extra.flag}: {error}") from error
    return taken


def _parse(file: epath.Path) -> set[Key]:
    """Adds a file's bindings to gin's and returns their keys."""
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
    config._FILE_READERS[:] = [(open, os.path.isfile)]  # not gin's second one, which looks into packages and complains
    config._LOCATION_PREFIXES[:] = [os.fspath(folder.resolve()), os.fspath(folder.resolve().parent)]
    source = io.StringIO(text)
    source.name = name
    try:
        includes, _ = gin.parse_config(source)
    except Exception as error:
        raise _mistake(error, name) from error
    for file in includes:
        require(not file.includes, f"{name}: {file.filename} includes files in turn; includes go one level deep")
    keys = set(config._CONFIG)
    for key, bound in before.items():
        config._CONFIG[key] = bound | config._CONFIG.get(key, {})
    return keys


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
    cls: type, file: str, keys: set[Key], referenced: set[Key], extras: list[tuple[Extra, set[Key]]]
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
    unused = _unused(keys, entered | referenced)
    require(not unused, f"{file}: nothing uses {_named(unused)}")
    for extra, bound in extras:
        extra.used_but(_unused(bound, entered))
    return built, gin.operative_config_str(max_line_length=120)


def _referenced() -> set[Key]:
    return {reference.config_key for reference in gin.config.iterate_references(gin.config._CONFIG)}


def _unused(keys: set[Key], entered: set[Key]) -> set[Key]:
    """The keys that apply to none of the configurables entered: a binding holds in its scope and in all inside it."""
    return {
        (scope, selector)
        for scope, selector in keys
        if not any(selector == other and f"{inside}/".startswith(scope and f"{scope}/") for inside, other in entered)
    }


def _named(keys: set[Key]) -> str:
    """Keys in the words of a gin file: 'macro STEPS, eval/sampling.Sampling.temperature'."""
    names = []
    for scope, selector in sorted(keys):
        parameters = ", ".join(gin.config._CONFIG.get((scope, selector), ()))  # of another stage's config: not known
        wrapped = gin.config._REGISTRY[selector].wrapped
        name = ".".join(filter(None, (wrapped.__module__.rpartition(".")[2], wrapped.__qualname__, parameters)))
        names.append(f"macro {scope}" if selector == "gin.macro" else f"{scope and scope + '/'}{name}")
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
        expected = isinstance(error, UserError | ModuleNotFoundError) or os.path.dirname(innermost) == gin.__path__[0]
        if not expected:
            return error
        found = LOCATION.search(said)
        at = f"{found[1]}:{found[2]}" if found else name
    for pattern, plain in PLAINER:
        if found := re.match(pattern, said):
            said = found.expand(plain) + _meant(found.groupdict().get("wrong"))
    said = said.strip().splitlines()[0] if said.strip() else type(error).__name__
    return UserError(f"{at}: {said}" if at else said)


def _meant(wrong: str | None) -> str:
    """'; is NAME meant?' where a module, class or parameter that the gin files know is spelt like `wrong`."""
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
