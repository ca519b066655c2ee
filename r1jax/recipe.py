"""A recipe: named stages in order, in one process; what one leaves on the disk, the next reads.

A complete stage is skipped and an unfinished one goes on from its last checkpoint, so that starting the same command
again always does the right thing.
"""

import contextlib
import dataclasses
import json
import re
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
from etils import epath
from rich.console import Console
from rich.table import Table

from r1jax import policies
from r1jax.base import fields
from r1jax.base.fields import require
from r1jax.base.files import read_json, write_atomically
from r1jax.base.mesh import from_main, is_main
from r1jax.base.place import Place
from r1jax.base.stop import Stop, Stopped
from r1jax.model import cost
from r1jax.report import page

HEADLINE = re.compile(r"pass@1|pass@1_any_format|cons@\d+|format|tokens_mean")  # keys of results.json for the table

OWN = ("recipe.json", "times.json", "machine.json", "report.html", "report.md")  # beside the stages


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a recipe file binds: its name and, in order, the gin file of each stage, relative to the recipe file.

    bindings: what it changes in its stages, each as after --gin. on the command line, which comes later and wins.
    """

    name: str
    stages: dict[str, str]
    bindings: tuple[str, ...] = ()

    def __post_init__(self):
        fields.check(self)
        require(bool(self.stages), "recipe.Recipe.stages is empty, wanted one stage or more")
        for name in (self.name, *self.stages):
            good = name.isprintable() and "/" not in name and not name.startswith(".") and name not in ("", *OWN)
            require(good, f"recipe.Recipe: {name!r} cannot be the name of a folder of a run")
        for binding in self.bindings:
            require("=" in binding, f"recipe.Recipe.bindings: {binding!r} has no value: write NAME=VALUE")


def run(
    name: str,
    stages: dict[str, tuple[ModuleType, Any]],
    root: epath.Path,
    profile: int | None = None,
    begin: Callable[[Place], Callable[[], None]] = lambda place: place.record,
) -> None:
    """Runs the stages, (module, its Run) by name, that are not complete in `root`, then prints what came out and writes
    the report.

    `begin` is called on process 0 before each stage, complete or not, and returns `Place.record`.
    """
    check(stages, root)
    _claim(root, name, {stage: module.__name__ for stage, (module, _) in stages.items()})
    for file in ("times.json", *(f"{stage}/{left}.json" for stage in stages for left in ("done", "results"))):
        _read(root / file)  # a broken one is said now and not after the work
    # Between the loops of the stages one process may stop at once; several must agree where.
    with Stop() if jax.process_count() > 1 else contextlib.nullcontext() as stop:
        for stage, (module, cfg) in stages.items():
            if stop and stop.asked():
                raise Stopped(f"{stage}, not begun")
            place = Place(root, stage, profile)
            if is_main():
                place = dataclasses.replace(place, record=begin(place))
            if not place.done:
                began = time.monotonic()
                try:
                    module.run(cfg, place)
                finally:
                    if is_main():
                        _add_time(root, stage, time.monotonic() - began)
            elif is_main():
                print(f"{stage}: complete already", flush=True)
    if is_main():
        _tell(name, [Place(root, stage) for stage in stages], _read(root / "times.json"))
        _measure(root)
        print(f"{root}: {', '.join(path.name for path in page.write([root]))}", flush=True)


def check(stages: dict[str, tuple[ModuleType, Any]], root: epath.Path) -> None:
    """Finds the mistakes of every stage before the first one works: UserError."""
    for stage, (module, cfg) in stages.items():
        place = Place(root, stage)
        if not place.done:
            if hasattr(cfg, "mesh"):
                cfg.mesh.make()
            module.describe(cfg, place)
    check_names(stages, root)


def check_names(stages: dict[str, tuple[ModuleType, Any]], root: epath.Path, dry: bool = False) -> None:
    """The part of it that needs no devices; dry: and no other run, whose stages are named by a path.

    A Run names the stages that it reads in `data`, `init`, `examples` and `tokenizer`; they come before it or lie on
    the disk."""
    before: set[str] = set()
    for stage, (_, cfg) in stages.items():
        place = Place(root, stage)
        for field in ("data", "init", "examples", "tokenizer") if not place.done else ():
            named = getattr(cfg, field, None)
            named = () if named is None else named
            if field == "init" and hasattr(cfg, field):
                teacher = getattr(cfg, "teacher", None)
                further = [*getattr(cfg, "judges", ()), *([teacher] if teacher else [])]
                named = (policies.before(cfg.init, stage), *(one.init for one in further))
            for name in (named,) if isinstance(named, str) else named:
                require(
                    name in before or (dry and "/" in name) or (name != "" and place.other(name).exists()),
                    f"{stage}: Run.{field} is {name!r}, but no stage of that name comes before, and there is no "
                    f"folder {place.other(name)}; the stages before are {', '.join(sorted(before)) or 'none'}",
                )
        before.add(stage)


def _claim(root: epath.Path, name: str, stages: dict[str, str]) -> None:
    """Makes `root` the folder of this recipe. UserError when it holds another run; then nothing is written.

    `stages` maps stage names to their modules. Stages may be added behind those that the folder knows. All processes
    must call it.
    """
    path = root / "recipe.json"
    if path.exists():
        remedy = "put it back as it was, or choose another --workdir"
        stored = read_json(path, remedy=remedy)
        says = isinstance(stored.get("recipe"), str) and isinstance(stored.get("stages"), dict)
        require(says, f"{path} does not say of which recipe and stages it is: {remedy}")
        known = list(stored["stages"].items())
        same = stored["recipe"] == name and known == list(stages.items())[: len(known)]
        there = f"{stored['recipe']} ({', '.join(stored['stages'])})"
    else:
        others = [child.name for child in root.iterdir() if not child.name.startswith(".")] if root.exists() else []
        same, there = not others, f"files of something else ({', '.join(sorted(others)[:3])})"
    wanted = f"{name} ({', '.join(stages)})"
    require(same, f"{root} holds {there}, this is {wanted}: choose another --workdir, or move that folder away")
    from_main(0)  # every process has looked before one writes
    if is_main():
        write_atomically(path, json.dumps({"recipe": name, "stages": stages}, indent=1) + "\n")


def _add_time(root: epath.Path, stage: str, seconds: float) -> None:
    """Keeps in times.json how long each stage took, over all the runs it needed; a killed run's time is not known."""
    times = _read(root / "times.json")
    write_atomically(root / "times.json", json.dumps(times | {stage: times.get(stage, 0.0) + seconds}, indent=1) + "\n")


def _measure(root: epath.Path) -> None:
    """Keeps in machine.json how fast the machine multiplies matrices: the report sets the stages' FLOPs beside it."""
    if (root / "machine.json").exists():
        return
    devices = jax.process_count() if jax.default_backend() == "cpu" else jax.device_count()  # of a CPU one is all cores
    machine = {"device": jax.devices()[0].device_kind, "devices": devices}
    machine["flops_per_second"] = cost.matmul_rate() * devices
    write_atomically(root / "machine.json", json.dumps(machine, indent=1) + "\n")


def _tell(name: str, places: list[Place], times: dict[str, float]) -> None:
    """Prints one table of the stages, then the paths of what they wrote."""
    console = Console()
    table = Table("stage", "time", "result", title=name, show_lines=True)
    for place in places:
        minutes, seconds = divmod(round(times.get(place.name, 0)), 60)
        figures = _read(place.folder / "results.json")
        said = [f"{key.replace('_', ' ')} {_figure(figures, key)}" for key in figures if HEADLINE.fullmatch(key)]
        said += [f"{key.replace('_', ' ')} {_brief(value)}" for key, value in _read(place.folder / "done.json").items()]
        table.add_row(place.name, f"{minutes}:{seconds:02d}", ", ".join(said))
    console.print(table)
    for place in places:
        written = sorted(child.name for child in place.folder.iterdir() if not child.name.startswith("."))
        console.print(f"{place.folder}: {', '.join(written)}", soft_wrap=True, highlight=False)


def _read(path: epath.Path) -> dict:
    return read_json(path) if path.exists() else {}


def _brief(value: int | float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figure(result: dict, key: str) -> str:
    if key.startswith("tokens"):
        return f"{result[key]:.1f}"
    low_high = result.get(f"{key}_ci95")
    between = f" ({low_high[0]:.1%} to {low_high[1]:.1%})" if low_high else ""
    return f"{result[key]:.1%}{between}"
