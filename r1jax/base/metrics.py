"""The journal of a stage: numbers to metrics.jsonl and TensorBoard, example texts to samples.jsonl.

Scalars are flat with slashes (`reward/mean`); what depends on the clock stands under `time/`, so that everything else
is the same in every run of the same seed. After a restart `cut` takes back what was written after the checkpoint.
"""

import json
import math
import os

from etils import epath

from r1jax.base.files import append, write_atomically
from r1jax.base.mesh import is_main


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
                kept = [] if step is None else [line for line in _lines(path) if json.loads(line)["step"] <= step]
                write_atomically(path, "".join(line + "\n" for line in kept))

    def close(self) -> None:
        """Flushes the TensorBoard file."""
        if self._board is not None:
            self._board.close()
            self._board = None


def read(path: epath.PathLike) -> list[dict]:
    """The records of a .jsonl file, in order; a torn last line is left out, a missing file is no records."""
    path = epath.Path(path)
    return [json.loads(line) for line in _lines(path)] if path.exists() else []


def _lines(path: epath.Path) -> list[str]:
    whole = path.read_bytes().split(b"\n")[:-1]  # after the last newline: nothing, or a line torn within a letter even
    return [line.decode() for line in whole]


def _number(value) -> float:
    return value.item() if hasattr(value, "item") else value
