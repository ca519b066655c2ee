"""Prompt templates: the text of a question in, the prompt that the policy continues out.

R1-Zero starts from a base model, so its template is plain text without chat tokens (R1 paper, table 1). It asks for a
structure only, reasoning and then an answer, and hints at no content or strategy.

Trap: the text of a question is inserted as it is, braces included, so `str.format` must not be used here.
"""

from dataclasses import dataclass

from r1jax.base.fields import check, require

_SLOT = "{question}"


@dataclass(frozen=True, kw_only=True)
class Zero:
    """R1-Zero's template. text: holds `{question}` exactly once; a base of few parameters wants a short one."""

    text: str = (
        "This is a conversation between User and Assistant. User poses a question and Assistant solves it. Assistant "
        "first works the solution out in its mind and only then tells User the answer. The reasoning is put between "
        "<think> and </think>, the answer between <answer> and </answer>, so that a reply reads: <think> the "
        "reasoning </think> <answer> the answer </answer>. User: {question}. Assistant:"
    )

    def __post_init__(self):
        check(self)
        found = self.text.count(_SLOT)
        require(found == 1, f"template.Zero.text holds {_SLOT} {found} times; it must stand in it exactly once")

    def render(self, question: str) -> str:
        """The prompt of one question."""
        return self.text.replace(_SLOT, question)
