"""What a reward may look at: a question and one response to it, both as text."""

from dataclasses import dataclass
from typing import Protocol


class Question(Protocol):
    """What the rewards read of a question; `r1jax.data.questions.Question` has it, a user's own class may have more."""

    answer: str
    language: str
    difficulty: int


@dataclass(frozen=True)
class Response:
    """One sampled response.

    text: decoded, without EOS. tokens: response tokens, EOS included. truncated: it met the token limit before EOS.
    """

    text: str
    tokens: int
    truncated: bool
