"""Writes the data that the other stages read: the task's data set, and the tokenizer trained on its texts."""

import dataclasses
import itertools

from r1jax.base.fields import check, require
from r1jax.base.mesh import from_main, is_main
from r1jax.base.place import Place
from r1jax.base.progress import Progress
from r1jax.data import tokenizer
from r1jax.data.questions import Source

TOKENIZER_TEXTS = 20_000  # more change nothing but the time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """task: what to write. vocabulary: pieces of the tokenizer at most."""

    task: Source
    vocabulary: int

    def __post_init__(self):
        check(self)
        require(self.vocabulary >= 300, f"prepare.Run.vocabulary is {self.vocabulary}; bytes and tags alone need 264")


def describe(cfg: Run, place: Place) -> list[str]:
    sizes = ", ".join(f"{size:,} {split}" for split, size in cfg.task.sizes.items()) or "not known yet"
    return [f"examples: {sizes}; tokenizer of at most {cfg.vocabulary} pieces"]


def run(cfg: Run, place: Place) -> None:
    place.record()
    counts = {}
    if is_main():
        total = sum(cfg.task.sizes.values()) or None
        with Progress(place.name, total) as progress:
            counts = cfg.task.prepare(place.folder, progress.update)
            texts = itertools.islice(cfg.task.texts(place.folder), TOKENIZER_TEXTS)
            tokenizer.train(texts, place.folder / "tokenizer.model", vocabulary=cfg.vocabulary)
            if total:
                progress.update(total)
    from_main(0)  # the others wait for the files
    pieces = tokenizer.Tokenizer(place.folder / "tokenizer.model").vocabulary
    place.finish(counts | {"vocabulary": pieces})
