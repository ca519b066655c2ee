"""Which sampled responses are worth learning from: the filters of rejection sampling (R1 paper, supplement B.3).

Kept are responses that are right, speak one language, have their form, are not too long and do not repeat themselves;
of each question the first few that differ.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from r1jax.base.fields import at_least, check, require
from r1jax.reward.grade import Grade
from r1jax.reward.response import Response

REASONS = ("truncated", "unparsable", "wrong", "mixed", "long", "repeating", "poor", "twice", "beyond")


@dataclass(frozen=True, kw_only=True)
class Filter:
    """correct: wrong ones go, where there is an answer to check. language: the least share of the thinking's words in
    the question's language. tokens: the longest response, EOS included. repeats: how often the same 20 characters may
    stand in a response. reward: the least weighted sum of the rewards. per_question: how many are kept; None: all.
    """

    correct: bool = True
    language: float = 1.0
    tokens: int | None = None
    repeats: int = 4
    reward: float | None = None
    per_question: int | None = None

    def __post_init__(self):
        check(self)
        at_least(1, self, "tokens", "repeats", "per_question")
        require(0 <= self.language <= 1, f"selection.Filter.language is {self.language}; it is a share, 0 to 1")

    def reason(self, response: Response, grade: Grade, reward: float) -> str | None:
        """Why a response goes, one of REASONS; None where it may stay."""
        if response.truncated:
            return "truncated"
        if not grade.formatted:
            return "unparsable"
        if self.correct and grade.correct is False:
            return "wrong"
        if grade.language < self.language:
            return "mixed"
        if self.tokens is not None and response.tokens > self.tokens:
            return "long"
        if repetition(response.text) > self.repeats:
            return "repeating"
        if self.reward is not None and reward < self.reward:
            return "poor"
        return None

    def choose(self, texts: Sequence[str], reasons: Sequence[str | None]) -> list[str | None]:
        """The reasons of all samples of one question, after those that stand there twice and those beyond the cap."""
        chosen, kept = [], set()
        for text, reason in zip(texts, reasons, strict=True):
            if reason is None and text in kept:
                reason = "twice"
            if reason is None and self.per_question is not None and len(kept) == self.per_question:
                reason = "beyond"
            if reason is None:
                kept.add(text)
            chosen.append(reason)
        return chosen


def repetition(text: str, size: int = 20) -> int:
    """How often the most frequent piece of `size` characters stands in the text; 1 in a text that is shorter."""
    pieces = Counter(text[i : i + size] for i in range(len(text) - size + 1))
    return max(pieces.values(), default=1)
