"""Rewrites responses of the miniature R1-Zero for a reader: thinking in one language, then a summary.

What the paper has a large model and people do for the cold start (supplement B.3.2) is here a table of words.
"""

from dataclasses import dataclass

from r1jax.data.problems import WORDS
from r1jax.data.questions import Question

_SUMMARY = {"en": "The answer is {}.", "zh": "答案是{}。"}


@dataclass(frozen=True, kw_only=True)
class ForReader:
    """Translates the thinking into the question's language and sums up in it."""

    def rewrite(self, question: Question, thinking: str, reply: str) -> str:
        """A response in the form 'chat'."""
        ours, theirs = WORDS[question.language], WORDS[{"en": "zh", "zh": "en"}[question.language]]
        for word in ours:
            thinking = thinking.replace(theirs[word], ours[word])
        summary = reply if question.domain == "code" else _SUMMARY[question.language].format(reply)
        return f"<think>{thinking}</think>{summary}"
