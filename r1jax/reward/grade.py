"""All that evaluation and monitoring want to know of one response, whatever it was rewarded for."""

from dataclasses import dataclass

from r1jax.reward.answers import equal, last_number, thinking
from r1jax.reward.response import Question, Response
from r1jax.reward.rules import Format
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


def grade(question: Question, response: Response) -> Grade:
    """Grades one response to one question."""
    parts = response.parts
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
