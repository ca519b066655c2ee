"""Prompts with completions, and where each came from: what curate writes, what finetune and judge read."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from etils import epath

from r1jax.data.records import Records
from r1jax.data.template import Template


@dataclasses.dataclass(frozen=True)
class Example:
    """One prompt and one completion, both as text, the completion without EOS.

    domain, language: of the question. question, sample: its id and the sample's index, with `seed` the key of the draw.
    source: the stage and step that wrote it ('zero/300'), or a name of what did. reward: the weighted sum of its
    rewards. parts: each reward before its weight, as JSON.
    """

    prompt: str
    completion: str
    domain: str
    language: str
    question: int
    sample: int
    seed: int
    source: str
    reward: float
    parts: str


@runtime_checkable
class General(Protocol):
    """A task with examples of its own, what fine-tuning adds to the reasoning (R1 paper, supplement B.3.3)."""

    def general(self, count: int, template: Template) -> list[Example]:
        """The first `count` of them, their prompts written with the template. UserError where there are fewer."""
        ...


def write(folder: epath.Path, examples: Sequence[Example]) -> None:
    """Writes the data set below `folder`, unless it is there."""
    _records(folder).write({"examples": lambda: map(dataclasses.asdict, examples)})


def read(folder: epath.Path) -> list[Example]:
    """The examples of a data set, in order."""
    return [Example(**row) for row in _records(folder).read("examples")]


def _records(folder: epath.Path) -> Records:
    fields = {field.name: field.type for field in dataclasses.fields(Example)}
    return Records(folder, "examples", "", fields)
