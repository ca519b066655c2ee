"""The journal of a stage: numbers to metrics.jsonl and TensorBoard, example texts to samples.jsonl.

Scalars are flat with slashes (`reward/mean`); what depends on the clock stands under `time/`, so that everything else
is the same in every run of the same seed. After a restart `cut` takes back what was written after the checkpoint.
"""

import json
import math
import os
from collections.abc import Iterator

from etils import epath

from r1jax.base.fields import UserError, require
from r1jax.base.files import append, write_atomically
from r1jax.base.mesh import is_main

REMEDY = "put the file back as it was, or remove the stage's folder to begin the stage again"


class Journal:
    """Writes on process 0; on the others every method does nothing."""

    def __init__(self, folder: epath.PathLike):
        self.folder = epath.Path(folder)
        self._board = None
        self._purge: int | None = None

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """One record of a step. Values are Python numbers or arrays of one element."""
        if not is_main():
            return
        record = {"step": int(step)} | {key: _number(value) for key, value in scalars.items()}
        append(self.folder / "metrics.jsonl", json.dumps(record) + "\n")
        if self._board is None:
            from tensorboardX import SummaryWriter  # lazily: most runs of this module are tests and dry runs

            self._board = SummaryWriter(os.fspath(self.folder / "tensorboard"), purge_step=self._purge)
        for key, value in record.items():
            if key != "step" and math.isfinite(value):  # of what is not, TensorBoard complains on stderr
                self._board.add_scalar(key, value, step)

    def samples(self, step: int, records: list[dict]) -> None:
        """Example texts of a step, one JSON line each."""
        if is_main() and records:
            lines = (json.dumps({"step": int(step)} | record, ensure_ascii=False) + "\n" for record in records)
            append(self.folder / "samples.jsonl", "".join(lines))

    def cut(self, step: int | None) -> None:
        """Drops the records after `step`, all of them with None, and a last line that a killed run left torn."""
        if not is_main():
            return
        self._purge = 0 if step is None else step + 1
        for name in ("metrics.jsonl", "samples.jsonl"):
            path = self.folder / name
            if path.exists():
                kept = [] if step is None else [line for line, at in _steps(path) if at <= step]
                write_atomically(path, "".join(line + "\n" for line in kept))

    def check(self, step: int) -> None:
        """UserError unless there is a record of each step up to `step`; `cut` and what comes after build on them."""
        path = self.folder / "metrics.jsonl"
        there = [at for _, at in _steps(path) if at <= step] if path.exists() else []
        require(
            there == list(range(1, step + 1)),
            f"{path} wants one record of each step up to {step}, of which there is a checkpoint; {REMEDY}",
        )

    def close(self) -> None:
        """Flushes the TensorBoard file."""
        if self._board is not None:
            self._board.close()
            self._board = None


def read(path: epath.PathLike) -> list[dict]:
    """The records of a .jsonl file, in order; a torn last line is left out, a missing file is no records. UserError
    where a line is no JSON object."""
    path = epath.Path(path)
    return [record for _, _, record in _lines(path)] if path.exists() else []


def _lines(path: epath.Path) -> Iterator[tuple[str, str, dict]]:
    """(file and number, text, record) of each line."""
    whole = path.read_bytes().split(b"\n")[:-1]  # after the last newline: nothing, or a line torn within a letter even
    for number, line in enumerate(whole, 1):
        where = f"{path}:{number}"
        try:
            text = line.decode()
            record = json.loads(text)
        except ValueError as error:
            raise UserError(f"{where} is no JSON: {error}; {REMEDY}") from error
        require(isinstance(record, dict), f"{where} is no JSON object; {REMEDY}")
        yield where, text, record


def _steps(path: epath.Path) -> Iterator[tuple[str, int]]:
    """(text, step) of each line."""
    for where, text, record in _lines(path):
        require(isinstance(record.get("step"), int), f"{where} has no step; {REMEDY}")
        yield text, record["step"]


def _number(value) -> float:
    return value.item() if hasattr(value, "item") else value
