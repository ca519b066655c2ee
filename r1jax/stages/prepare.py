"""Writes the data that the other stages read: the task's data set, and a tokenizer, trained on its texts or copied."""

import dataclasses
import itertools

from r1jax.base.fields import at_least, check, require
from r1jax.base.mesh import from_main, is_main
from r1jax.base.place import Place
from r1jax.base.progress import Progress
from r1jax.data import tokenizer
from r1jax.data.questions import Source

TOKENIZER_TEXTS = 20_000  # more change nothing but the time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """task: what to write. Either vocabulary: pieces at most of a tokenizer that is trained; or tokenizer: the stage,
    or the path with a slash in it, whose tokenizer is copied. eos: the token that ends a response, where the published
    tokenizer names none or another one is wanted."""

    task: Source
    vocabulary: int | None = None
    tokenizer: str | None = None
    eos: str | None = None

    def __post_init__(self):
        check(self)
        at_least(300, self, "vocabulary")  # bytes and tags alone need 264
        require(
            (self.vocabulary is None) != (self.tokenizer is None),
            "prepare.Run wants either vocabulary, to train a tokenizer, or tokenizer, to copy one",
        )
        require(self.eos is None or self.tokenizer is not None, "prepare.Run.eos goes with prepare.Run.tokenizer only")


def describe(cfg: Run, place: Place) -> list[str]:
    sizes = ", ".join(f"{size:,} {split}" for split, size in cfg.task.sizes.items()) or "as many as the files hold"
    kind = f"of {cfg.tokenizer}" if cfg.vocabulary is None else f"of at most {cfg.vocabulary} pieces"
    return [f"examples: {sizes}; tokenizer {kind}"]


def run(cfg: Run, place: Place) -> None:
    place.record()
    counts = {}
    if is_main():
        total = sum(cfg.task.sizes.values()) or None
        with Progress(place.name, total) as progress:
            counts = cfg.task.prepare(place.folder, progress.update)
            if cfg.vocabulary is None:
                tokenizer.copy(place.other(cfg.tokenizer), place.folder, cfg.eos)
            else:
                texts = list(itertools.islice(cfg.task.texts(place.folder), TOKENIZER_TEXTS))
                require(len(texts) > 0, f"{place.name}: the task has no documents to train a tokenizer on; copy one")
                tokenizer.train(texts, place.folder / tokenizer.TRAINED, vocabulary=cfg.vocabulary)
            if total:
                progress.update(total)
    from_main(0)  # the others wait for the files
    place.finish(counts | {"vocabulary": tokenizer.Tokenizer(place.folder).vocabulary})
