"""One question with one checkable answer: what every task hands to the stages."""

from dataclasses import dataclass


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
