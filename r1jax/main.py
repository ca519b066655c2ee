"""The command line.

`r1jax run FILE...` takes recipe files and stage files. `r1jax report DIR...` makes a run's report again. A user's
mistake is one line on stderr, exit status 2.

What needs jax is imported late, so that `r1jax --help` answers at once and the processes of a pod can join before jax
is used.
"""

import argparse
import os
import signal
import sys
from functools import partial

from r1jax.base.fields import UserError, require

USAGE = """\
examples:
  r1jax run configs/recipes/miniature_zero.gin
  r1jax run configs/recipes/miniature_zero.gin --dry_run
  r1jax run configs/recipes/miniature_zero.gin --gin.reinforce.Run.steps=10 --workdir /tmp/runs
  r1jax run configs/recipes/miniature_zero.gin --gin.evaluate_zero/sampler.Sampler.samples=4

--gin.NAME=VALUE binds a name as a gin file would, in every stage that imports its module; with STAGE/ before the name,
in that stage only. A value that is no gin literal is taken as a string. Files and flags: later ones win.
"""

STOPPED = "stopped{}; the same command goes on from there"


def main(argv: list[str] | None = None) -> int:
    """Runs one command line; returns the exit status."""
    # SIGTERM does what Ctrl-C does: it ends the program at once, but where a stage's own Stop is in force.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        args, overrides = _arguments(sys.argv[1:] if argv is None else argv)
        return _report(args.dirs) if args.command == "report" else _run(args, overrides)
    except UserError as error:
        print(f"r1jax: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(STOPPED.format(""), flush=True)
        return 0
    except BrokenPipeError:  # `| head` has read enough; what is left in the buffer must go somewhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message} (r1jax --help shows the commands)")


def _arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The parsed arguments, and the --gin.NAME=VALUE flags apart."""
    parser = _Parser(prog="r1jax", description="The DeepSeek-R1 recipe as pure JAX programs.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    raw = argparse.RawDescriptionHelpFormatter
    run = commands.add_parser(
        "run", help="run recipes or single stages", epilog=USAGE, formatter_class=raw, allow_abbrev=False
    )
    run.add_argument("files", nargs="+", metavar="FILE", help="a recipe or a stage, in gin")
    run.add_argument("--workdir", default="runs", help="where <recipe>/<stage>/ go, a path of Orbax (default: runs)")
    run.add_argument("--gin_file", action="append", default=[], metavar="F", help="read F after each stage's own file")
    run.add_argument("--dry_run", action="store_true", help="build and check every stage, say what it would do, stop")
    run.add_argument("--profile", type=int, metavar="STEPS", help="trace the first STEPS steps after the compilation")
    report = commands.add_parser("report", help="make the report of finished runs again", allow_abbrev=False)
    report.add_argument("dirs", nargs="+", metavar="DIR", help="a run, runs/<recipe>; of several seeds all together")
    overrides = [argument for argument in argv if argument.startswith("--gin.")]
    args = parser.parse_args([argument for argument in argv if not argument.startswith("--gin.")])
    for override in overrides:
        require(args.command == "run", f"{override}: r1jax report takes no bindings")
        require("=" in override, f"{override} has no value: write {override}=VALUE")
    if args.command == "run":
        require(args.profile is None or args.profile > 0, f"--profile {args.profile}, wanted 1 or more steps")
    return args, overrides


def _run(args: argparse.Namespace, overrides: list[str]) -> int:
    sys.path.append(os.getcwd())  # a user's own rewards and tasks lie beside the user
    import jax

    from r1jax import bindings, recipe
    from r1jax.base.files import absolute
    from r1jax.base.mesh import is_main, join
    from r1jax.base.place import Place
    from r1jax.base.stop import Stopped

    recipes = bindings.load(args.files, args.gin_file, overrides)
    workdir = absolute(args.workdir)
    if args.dry_run:
        print(f"devices: {jax.device_count()} {jax.devices()[0].device_kind}")
        for name, stages in recipes.items():
            for stage, ready in stages.items():
                print(f"\n{name}/{stage}")
                for line in ready.module.describe(ready.run, Place(workdir / name, stage, args.profile)):
                    print(f"  {line}")
        return 0
    meshes = [getattr(ready.run, "mesh", None) for stages in recipes.values() for ready in stages.values()]
    if any(mesh and mesh.processes == "auto" for mesh in meshes):
        join("auto")
    runs = {
        name: {stage: (ready.module, ready.run) for stage, ready in stages.items()} for name, stages in recipes.items()
    }
    for name in list(runs)[1:]:
        recipe.check(runs[name], workdir / name)  # each is checked when it starts, the later ones now already
    try:
        for name, stages in recipes.items():
            recipe.run(name, runs[name], workdir / name, args.profile, begin=partial(bindings.begin, stages))
    except Stopped as stopped:
        if is_main():
            print(STOPPED.format(f" at {stopped}"), flush=True)
    return 0


def _report(dirs: list[str]) -> int:
    from r1jax.report import page

    for path in page.write(dirs):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
