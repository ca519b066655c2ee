"""What a reward may look at: a question and one response to it, both as text."""

import functools
from dataclasses import dataclass
from typing import Protocol

from r1jax.reward.answers import Form, Parts, parse


class Question(Protocol):
    """What the rewards read of a question; `r1jax.data.questions.Question` has it, a user's own class may have more."""

    answer: str
    language: str
    difficulty: int
    domain: str
    tests: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    reference: str


@dataclass(frozen=True)
class Response:
    """One sampled response.

    text: decoded, without EOS. tokens: response tokens, EOS included. truncated: it met the token limit before EOS.
    form: the one that its template asked for.
    """

    text: str
    tokens: int
    truncated: bool
    form: Form = "zero"

    @functools.cached_property
    def parts(self) -> Parts | None:
        """None where the response is truncated or has not its form."""
        return None if self.truncated else parse(self.text, self.form)

    @property
    def fault(self) -> str | None:
        """Why there are no parts, as the status of a score: 'truncated' or 'unparsable'; None where there are some."""
        if self.parts is not None:
            return None
        return "truncated" if self.truncated else "unparsable"
