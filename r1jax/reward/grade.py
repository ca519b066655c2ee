"""All that evaluation and monitoring want to know of one response, whatever it was rewarded for."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

from r1jax.reward.answers import equal, last_number, thinking
from r1jax.reward.response import Question, Response
from r1jax.reward.rules import Format, Reward, total
from r1jax.reward.words import consistency, reflections


@dataclass(frozen=True)
class Grade:
    """answer: of a complete, well-formed response, else None. parsed: there is one. correct: it is right.
    correct_any_format: so is it, or else the last number of the text. formatted: the format reward would be paid.
    language: share of the thinking's words in the question's language. reflections: reflective words."""

    correct: bool
    correct_any_format: bool
    formatted: bool
    parsed: bool
    truncated: bool
    language: float
    reflections: int
    answer: str | None
    tokens: int


def grade(question: Question, response: Response, correct: bool | None = None) -> Grade:
    """Grades one response to one question. correct: what an accuracy reward said of it; None: what `Accuracy` says."""
    parts = response.parts
    if correct is None:
        correct = parts is not None and equal(parts.answer, question.answer)
    number = last_number(response.text)
    return Grade(
        correct=correct,
        correct_any_format=correct or (number is not None and equal(number, question.answer)),
        formatted=Format().score(question, response).value == 1,
        parsed=parts is not None,
        truncated=response.truncated,
        language=consistency(thinking(response.text), question.language),
        reflections=reflections(response.text),
        answer=parts.answer if parts else None,
        tokens=response.tokens,
    )


NUMBERS = tuple(field.name for field in fields(Grade) if field.name != "answer")


def columns(rewards: Sequence[Reward]) -> list[str]:
    """The names of what `marks` gives: the numbers of a Grade, each reward's value under `reward/<name>`, whether a
    reward met an unparsable response or a time-out, and `total`, the weighted sum. A reward named 'accuracy' says which
    responses are right: those that it gives 1."""
    return [*NUMBERS, *(f"reward/{reward.name}" for reward in rewards), "reward/unparsable", "reward/timeout", "total"]


def marks(rewards: Sequence[Reward], question: Question, response: Response) -> list[float]:
    """All the numbers of one response, in the order of `columns`. One piece of work for a pool."""
    value, values, statuses = total(rewards, question, response)
    graded = grade(question, response, values["accuracy"] == 1 if "accuracy" in values else None)
    met = set(statuses.values())
    numbers = [getattr(graded, name) for name in NUMBERS] + [values[reward.name] for reward in rewards]
    return [float(number) for number in (*numbers, "unparsable" in met, "timeout" in met, value)]


def lost(rewards: Sequence[Reward], response: Response) -> list[float]:
    """The same of a response whose marks were lost: worth nothing, a time-out."""
    known = {"tokens": response.tokens, "truncated": response.truncated, "reward/timeout": 1}
    return [float(known.get(name, 0)) for name in columns(rewards)]
