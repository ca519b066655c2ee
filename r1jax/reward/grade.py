"""All that evaluation and monitoring want to know of one response, whatever it was rewarded for."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from r1jax.reward.answers import equal, last_number, thinking
from r1jax.reward.response import Question, Response
from r1jax.reward.rules import Accuracy, Format, Reward, Score, total
from r1jax.reward.words import consistency, reflections


@dataclass(frozen=True)
class Grade:
    """answer: what a complete, well-formed response answers, of a program all of it; None where it says nothing, or
    two different things. parsed: it is well-formed. correct: it is right. correct_any_format: so is it, or else the
    last number of the text; a program has to have its form. Both are None where nothing can be checked.
    formatted: the format reward would be paid. language: share of the thinking's words in the question's language.
    reflections: reflective words. quality: what a judge says of the reply, 0 to 1, and win: 1 where it prefers it to
    the question's reference, 1/2 where it likes both; None where there is no judge."""

    correct: bool | None
    correct_any_format: bool | None
    formatted: bool
    parsed: bool
    truncated: bool
    language: float
    reflections: int
    answer: str | None
    tokens: int
    quality: float | None = None
    win: float | None = None


def grade(question: Question, response: Response, accuracy: Score | None = None) -> Grade:
    """Grades one response to one question. accuracy: what an accuracy reward says of it; None: what `Accuracy` does."""
    parts = response.parts
    accuracy = accuracy or Accuracy().score(question, response)
    right = None if accuracy.status == "inapplicable" else accuracy.value == 1
    number = last_number(response.text)
    return Grade(
        correct=right,
        correct_any_format=None if right is None else right or (number is not None and equal(number, question.answer)),
        formatted=Format().score(question, response).value == 1,
        parsed=parts is not None,
        truncated=response.truncated,
        language=consistency(thinking(response.text), question.language),
        reflections=reflections(response.text),
        answer=((parts.reply if question.tests else parts.answer) or None) if parts else None,
        tokens=response.tokens,
    )


def judged(graded: Grade, judge: Reward, question: Question, response: Response) -> Grade:
    """The grade with what a judge says, where the question is its business."""
    score = judge.score(question, response)
    if score.status == "inapplicable":
        return graded
    reference = Response(f"<think>.</think>{question.reference}", tokens=0, truncated=False, form="chat")
    other = judge.score(question, reference)
    win = 0.5 * ((score.value > other.value) + (score.value >= other.value))
    return dataclasses.replace(graded, quality=score.value, win=win)


NUMBERS = tuple(field.name for field in dataclasses.fields(Grade) if field.name not in ("answer", "quality", "win"))


def columns(rewards: Sequence[Reward]) -> list[str]:
    """The names of what `marks` gives: the numbers of a Grade, each reward's value under `reward/<name>`, whether a
    reward met an unparsable response or a time-out, and `total`, the weighted sum. A reward named 'accuracy' says which
    responses are right: those that it gives 1. What does not apply to a question is NaN."""
    return [*NUMBERS, *(f"reward/{reward.name}" for reward in rewards), "reward/unparsable", "reward/timeout", "total"]


def marks(rewards: Sequence[Reward], question: Question, response: Response) -> list[float]:
    """All the numbers of one response, in the order of `columns`. One piece of work for a pool."""
    value, scores = total(rewards, question, response)
    graded = grade(question, response, scores.get("accuracy"))
    numbers = [getattr(graded, name) for name in NUMBERS]
    numbers += [None if score.status == "inapplicable" else score.value for score in scores.values()]
    met = {score.status for score in scores.values()}
    numbers += ["unparsable" in met, "timeout" in met, value]
    return [math.nan if number is None else float(number) for number in numbers]


def lost(rewards: Sequence[Reward], response: Response) -> list[float]:
    """The same of a response whose marks were lost: worth nothing, a time-out."""
    known = {"tokens": response.tokens, "truncated": response.truncated, "reward/timeout": 1}
    return [float(known.get(name, 0)) for name in columns(rewards)]
