"""Rule rewards: what a verifier can say of a response without a model.

    R_rule = R_accuracy + R_format                        (R1 paper, equation 4)
    R = R_rule + R_language                               (after the cold start: equations 7 and 8)

A reward is a frozen dataclass with a `name` (its key in the metrics), a `weight`, and one method
`score(question, response) -> Score`. A user's own reward is the same, written in the user's module and named in gin.

A response that could not be judged scores 0, but never silently: the reason is the score's status, and the stages
count it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from r1jax.base.fields import check, require
from r1jax.reward.answers import equal
from r1jax.reward.response import Question, Response
from r1jax.reward.words import consistency

STATUSES = ("judged", "truncated", "unparsable", "timeout", "inapplicable")


@dataclass(frozen=True)
class Score:
    """value: before the weight, finite. status: one of STATUSES; 'inapplicable': the reward has nothing to say of such
    a question."""

    value: float
    status: str = "judged"

    def __post_init__(self):
        require(math.isfinite(self.value), f"Score.value is {self.value}; a reward must be finite")
        require(self.status in STATUSES, f"Score.status is {self.status!r}; it must be one of {STATUSES}")


@runtime_checkable
class Reward(Protocol):
    """What `total` asks of a reward; a Run that holds rewards names this type, so that its check finds what is none."""

    name: str
    weight: float

    def score(self, question: Question, response: Response) -> Score: ...


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """1 if the answer equals the truth, else 0; of a question that has no answer nothing can be said."""

    weight: float = 1.0
    name: str = "accuracy"

    def __post_init__(self):
        check(self)

    def score(self, question: Question, response: Response) -> Score:
        """Judges complete, well-formed responses; all others are 0 with their status."""
        if not question.answer:
            return Score(0.0, "inapplicable")
        if response.fault:
            return Score(0.0, response.fault)
        return Score(float(equal(response.parts.answer, question.answer)))


@dataclass(frozen=True, kw_only=True)
class Format:
    """1 if the response has its form with the tags complete and something thought, else 0. The paper does not say
    how much it weighs beside the accuracy."""

    weight: float = 1.0
    name: str = "format"

    def __post_init__(self):
        check(self)

    def score(self, question: Question, response: Response) -> Score:
        """A response without a letter or digit between the thinking tags has thought nothing."""
        if response.truncated:
            return Score(0.0, "truncated")
        parts = response.parts
        return Score(float(parts is not None and any(map(str.isalnum, parts.thinking))))


@dataclass(frozen=True, kw_only=True)
class Language:
    """R_language: the share of the words of the thinking that are of the question's language (R1 paper, equation 7).
    Thinking without words, digits only, is consistent; no thinking at all is not."""

    weight: float = 1.0
    name: str = "language"

    def __post_init__(self):
        check(self)

    def score(self, question: Question, response: Response) -> Score:
        """Judges complete, well-formed responses; all others are 0 with their status."""
        if response.fault:
            return Score(0.0, response.fault)
        thinking = response.parts.thinking
        return Score(consistency(thinking, question.language) if any(map(str.isalnum, thinking)) else 0.0)


@dataclass(frozen=True, kw_only=True)
class Overlong:
    """DAPO's soft punishment of long responses (equation 13 there): 0 up to `limit - buffer` tokens, then falling
    linearly to -1 at `limit`. Tokens count EOS."""

    limit: int
    buffer: int
    weight: float = 1.0
    name: str = "overlong"

    def __post_init__(self):
        check(self)
        require(
            0 < self.buffer <= self.limit,
            f"Overlong.buffer is {self.buffer}; it must be from 1 to Overlong.limit, which is {self.limit}",
        )

    def score(self, question: Question, response: Response) -> Score:
        """Looks at the token count alone, so every response is judged."""
        over = response.tokens - (self.limit - self.buffer)
        return Score(-min(max(over / self.buffer, 0.0), 1.0))


@dataclass(frozen=True, kw_only=True)
class ByDomain:
    """A reward of its own for each domain of questions, as programs want tests and numbers want equality; of the other
    domains it says nothing. Their names and weights do not count."""

    rewards: dict[str, Reward]
    weight: float = 1.0
    name: str = "accuracy"

    def __post_init__(self):
        check(self)

    def score(self, question: Question, response: Response) -> Score:
        """What the reward of the question's domain says."""
        chosen = self.rewards.get(question.domain)
        return chosen.score(question, response) if chosen else Score(0.0, "inapplicable")


def distinct(rewards: Sequence[Reward]) -> None:
    """UserError where two rewards, or judges, have one name: it is their key in the metrics."""
    names = [reward.name for reward in rewards]
    require(len(set(names)) == len(names), f"two rewards share a name: {names}; give one of them another")


def total(rewards: Sequence[Reward], question: Question, response: Response) -> tuple[float, dict[str, Score]]:
    """The weighted sum, and the scores by reward name."""
    distinct(rewards)
    scores = {reward.name: reward.score(question, response) for reward in rewards}
    return math.fsum(reward.weight * scores[reward.name].value for reward in rewards), scores
