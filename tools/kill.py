"""Kills a recipe with SIGKILL again and again, goes on with it, and compares the end with a run that was left alone.

    python tools/kill.py [FILE.gin] [--runs 20] [--kills 3] [--seed 0] [--folder DIR] [what else `r1jax run` takes]

The first kill of a run comes at one of MOMENTS, each in its turn, the others at random instants of the whole run. Each
time the same command is started again, at last without a kill. Then everything must be as in the undisturbed run: the
last checkpoint of every stage bit for bit, and every file, but for what the clock enters (keys under time/, times.json,
TensorBoard's files). Exit status 1 where anything differs.
"""

import argparse
import contextlib
import glob
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MOMENTS = {  # what appears on the disk at that moment
    "building the data": "*/*/*/*/incomplete.*",
    "training the tokenizer": "*/*/*/*/*/dataset_info.json",
    "a stage begins": "*/*/config.gin",
    "the first metrics": "*/*/metrics.jsonl",
    "writing a checkpoint": "*/*/checkpoints/*tmp*",
    "a rollout or an evaluation": "*/*/samples.jsonl",
    "drawing the curves": "*/*/plots/*",
    "between stages": "*/*/done.json",
}


def run(command: list[str], folder: Path, errors: Path, enough=lambda seen: False, wait: float = 0.0) -> dict | None:
    """Runs the command to its end, then returns the paths that appeared in `folder` by the name of the moment; or kills
    it, `wait` seconds after `enough` says so of those paths: then None."""
    look = lambda pattern: set(glob.glob(pattern, root_dir=folder))  # noqa: E731  what vanishes meanwhile is no error
    there = {name: look(pattern) for name, pattern in MOMENTS.items()}
    seen = {name: set() for name in MOMENTS}
    with open(errors, "w") as file:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file, start_new_session=True)
    while process.poll() is None:
        for name, pattern in MOMENTS.items():
            seen[name] |= look(pattern) - there[name]
        if enough(seen):
            time.sleep(wait)
            with contextlib.suppress(ProcessLookupError):  # it came to its end meanwhile
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return None
        time.sleep(0.005)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} ended with status {process.returncode}: {errors.read_text()[-2000:]}")
    return seen


def where(folder: Path) -> str:
    """How far a killed run came, from what it left on the disk."""
    from r1jax.base.metrics import read

    if not (folder / "recipe.json").exists():
        return "start"
    for stage in json.loads((folder / "recipe.json").read_text())["stages"]:
        place = folder / stage
        if (place / "done.json").exists():
            continue
        if not (place / "config.gin").exists():
            return f"before {stage}"
        if list(place.glob("*/*/incomplete.*")):
            return f"{stage}, building"
        if list(place.glob("*/*/*/dataset_info.json")) and not (place / "tokenizer.model").exists():
            return f"{stage}, tokenizer"
        if list(place.glob("plots/*")):
            return f"{stage}, curves"
        if records := read(place / "metrics.jsonl"):
            writing = ", writing a checkpoint" if list(place.glob("checkpoints/*tmp*")) else ""
            return f"{stage}, step {records[-1]['step']}{writing}"
        samples = len(read(place / "samples.jsonl"))
        return f"{stage}, {samples} samples" if samples else f"{stage}, begun"
    return "end"


def differences(one: Path, other: Path) -> list[str]:
    """What differs between two complete runs of a recipe."""
    names = [{str(path.relative_to(folder)) for path in _files(folder)} for folder in (one, other)]
    found = [f"only one has {name}" for name in sorted(names[0] ^ names[1])]
    for name in sorted(names[0] & names[1]):
        if _contents(one / name) != _contents(other / name):
            found.append(f"{name} differs")
    for folder in sorted(path.parent for path in one.rglob("dataset_info.json")):
        name = folder.relative_to(one)
        if _examples(folder) != _examples(other / name):
            found.append(f"{name} holds other examples")
    for folder in sorted(one.glob("*/checkpoints")):
        name = folder.relative_to(one)
        mine, others = _arrays(folder), _arrays(other / name)
        found += [f"{name} differs in {key}" for key in sorted(mine) if mine[key] != others.get(key)]
        found += [f"{name}: only one has {key}" for key in sorted(others.keys() - mine.keys())]
    return found


def _files(folder: Path) -> list[Path]:
    apart = ("checkpoints", "tensorboard", "times.json", "machine.json", "report.html", "report.md")  # these tell time
    found = [path for path in folder.rglob("*") if path.is_file() and ".array_record" not in path.name]
    return [path for path in found if not any(part in apart for part in path.relative_to(folder).parts)]


def _contents(path: Path) -> bytes | list[str]:
    if path.suffix != ".jsonl":
        return path.read_bytes()
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [json.dumps({k: v for k, v in record.items() if not k.startswith("time/")}) for record in records]


def _examples(folder: Path) -> dict[str, list]:
    """A data set by split. Its files hold maps in no fixed order, so their bytes differ."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    sources = {split: builder.as_data_source(split) for split in builder.info.splits}
    return {split: list(source.__getitems__(range(len(source)))) for split, source in sources.items()}


def _arrays(folder: Path) -> dict[str, tuple]:
    """Every array of the last checkpoint by item and path: (dtype, shape, bytes); and its step."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    from r1jax.base.checkpoint import Store

    step = Store(folder).latest()
    found = {"step": (step,)}
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        for item in sorted((folder / str(step)).iterdir()):
            if not (item / "_METADATA").exists():  # JSON
                continue
            stored = reader.metadata(item).item_metadata.tree
            like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), stored)
            read = reader.restore(item, args=ocp.args.StandardRestore(like))
            for path, leaf in jax.tree_util.tree_flatten_with_path(read)[0]:
                array = np.asarray(leaf)
                found[f"{item.name}{jax.tree_util.keystr(path)}"] = (str(array.dtype), array.shape, array.tobytes())
    return found


def main() -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", default=str(ROOT / "configs/recipes/miniature_zero.gin"))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=3, help="of each run")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--folder", type=Path, help="where the runs go (default: a temporary folder)")
    args, further = parser.parse_known_args()
    base = (args.folder or Path(tempfile.mkdtemp(prefix="kill_"))).resolve()
    base.mkdir(parents=True, exist_ok=True)
    rng, same = random.Random(args.seed), 0

    def go(name: str, *how) -> dict | None:
        command = [sys.executable, "-m", "r1jax.main", "run", args.file, "--workdir", str(base / name), *further]
        return run(command, base / name, base / "errors.txt", *how)

    began = time.monotonic()
    counts = {moment: len(paths) for moment, paths in go("alone").items() if paths}
    whole = time.monotonic() - began
    (recipe,) = (path.parent.name for path in (base / "alone").glob("*/recipe.json"))
    print(f"left alone: {whole:.0f} s; the runs are in {base}", flush=True)
    os.environ["JAX_PLATFORMS"] = "cpu"  # for the comparison; an accelerator belongs to the runs
    for index in range(args.runs):
        name, fell = f"run_{index}", []
        for number in range(args.kills):
            moment = list(counts)[index % len(counts)]
            nth, until = rng.randrange(counts[moment]), time.monotonic() + rng.uniform(0, whole)
            if number == 0:
                ended = go(name, lambda seen: len(seen[moment]) > nth, rng.uniform(0, 0.1))  # noqa: B023
            else:
                ended = go(name, lambda seen: time.monotonic() >= until)  # noqa: B023
            if ended:
                break
            fell.append(where(base / name / recipe))
        go(name)
        found = differences(base / "alone" / recipe, base / name / recipe)
        same += not found
        said = "identical" if not found else "; ".join(found[:3]) + f"; differences: {len(found)}"
        print(f"run {index}, killed at {'; '.join(fell) or 'no time'}: {said}", flush=True)
    print(f"{same} of {args.runs} resume bit-identical")
    return 0 if same == args.runs else 1


if __name__ == "__main__":
    sys.exit(main())
