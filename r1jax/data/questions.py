"""What stages ask of a task: questions with one checkable answer each, and, of a task that writes data, documents.

A task is a frozen dataclass with one method, `questions`. A user's own lives in the user's module and is named in gin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from etils import epath


@dataclass(frozen=True)
class Question:
    """A question before any template is put around it.

    id: unique in its data set, part of the random key of its samples. answer: empty where no rule can check a reply.
    language: 'en' or 'zh', the language to think in. difficulty: any scale that the task defines; results are also
    given per difficulty. domain: what kind of question it is, a label for mixtures and reports. Hidden from the policy
    are tests, of a question that asks for a program: calls and the Python literals that they return; and of a request:
    facts, the things asked about and what is true of them, and reference, a reply to compare with.
    """

    id: int
    text: str
    answer: str
    language: str
    difficulty: int
    domain: str = "math"
    tests: tuple[tuple[str, str], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    reference: str = ""


@runtime_checkable
class Task(Protocol):
    """What `reinforce`, `curate` and `evaluate` ask."""

    def questions(self, split: str, folder: epath.Path) -> Sequence[Question]:
        """All questions of split 'rl', 'validation' or 'test', in a fixed order. folder: of the stage that prepared
        the data; a task that needs none leaves it alone."""
        ...


@runtime_checkable
class Source(Task, Protocol):
    """A task that writes a data set: what `prepare` and `pretrain` ask besides.

    sizes: examples per split, as far as they are known before they are written.
    """

    @property
    def sizes(self) -> dict[str, int]: ...

    def prepare(self, folder: epath.Path, tell: Callable[[int], None]) -> dict[str, int]:
        """Writes the data set below `folder`, unless it is there; `tell` hears how many examples are written. Returns
        counts for the report."""
        ...

    def texts(self, folder: epath.Path) -> Sequence[str]:
        """The documents to pretrain on and to train a tokenizer on, in a fixed order; there may be none."""
        ...
