"""One question with one checkable answer: what every task hands to the stages."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A question before any template is put around it.

    id: unique in its data set, part of the random key of its samples. language: 'en' or 'zh', the language to think
    in. difficulty: any scale that the task defines; results are also given per difficulty.
    """

    id: int
    text: str
    answer: str
    language: str
    difficulty: int
