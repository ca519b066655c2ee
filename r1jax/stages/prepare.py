"""Writes the data that the other stages read: the task's data set, and a tokenizer, trained on its texts or copied."""

import dataclasses
import itertools

from r1jax.base.fields import at_least, check, require
from r1jax.base.mesh import from_main, is_main
from r1jax.base.place import Place
from r1jax.base.progress import Progress
from r1jax.data import examples, tokenizer
from r1jax.data.examples import General
from r1jax.data.questions import Source
from r1jax.data.template import Template

TOKENIZER_TEXTS = 20_000  # more change nothing but the time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """task: what to write. Either vocabulary: pieces at most of a tokenizer that is trained; or tokenizer: the stage,
    or the path with a slash in it, whose tokenizer is copied. eos: the token that ends a response, where the published
    tokenizer names none or another one is wanted. general: how many of the task's own examples are written too, with
    the template, so that finetune can read this stage."""

    task: Source
    vocabulary: int | None = None
    tokenizer: str | None = None
    eos: str | None = None
    general: int = 0
    template: Template | None = None

    def __post_init__(self):
        check(self)
        at_least(300, self, "vocabulary")  # bytes and tags alone need 264
        at_least(0, self, "general")
        require(
            (self.vocabulary is None) != (self.tokenizer is None),
            "prepare.Run wants either vocabulary, to train a tokenizer, or tokenizer, to copy one",
        )
        require(
            self.general == 0 or isinstance(self.task, General) and self.template is not None,
            f"prepare.Run.general is {self.general}: it wants a template, and a task that has examples of its own; "
            f"{type(self.task).__name__} has {'some' if isinstance(self.task, General) else 'none'}",
        )
        require(self.eos is None or self.tokenizer is not None, "prepare.Run.eos goes with prepare.Run.tokenizer only")


def describe(cfg: Run, place: Place) -> list[str]:
    sizes = ", ".join(f"{size:,} {split}" for split, size in cfg.task.sizes.items()) or "as many as the files hold"
    kind = f"of {cfg.tokenizer}" if cfg.vocabulary is None else f"of at most {cfg.vocabulary} pieces"
    own = f", {cfg.general:,} to learn from" if cfg.general else ""
    return [f"examples: {sizes}{own}; tokenizer {kind}"]


def run(cfg: Run, place: Place) -> None:
    place.record()
    counts = {}
    if is_main():
        total = sum(cfg.task.sizes.values()) or None
        with Progress(place.name, total) as progress:
            counts = cfg.task.prepare(place.folder, progress.update)
            if cfg.general:
                examples.write(place.folder, cfg.task.general(cfg.general, cfg.template))
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
