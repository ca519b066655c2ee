"""Prompt templates: the text of a question in, the prompt that the policy continues out.

R1-Zero starts from a base model, so its template is plain text without chat tokens (R1 paper, table 1). It asks for a
structure only, reasoning and then an answer, and hints at no content or strategy. After the cold start the policy is a
chat model: it reasons between the thinking tags, then sums up for the reader (R1 paper, section 3).

Trap: the text of a question is inserted as it is, braces included, so `str.format` must not be used here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from r1jax.base.fields import check, require
from r1jax.data.questions import Question


@runtime_checkable
class Template(Protocol):
    """form: of the responses that it asks for, as `reward.answers` reads them."""

    form: str

    def render(self, question: str) -> str: ...


@runtime_checkable
class Rewriter(Protocol):
    """Makes of a well-formed response the one that a reader should see: all of it, reasoning included."""

    def rewrite(self, question: Question, thinking: str, reply: str) -> str: ...


_SLOT = "{question}"


@dataclass(frozen=True, kw_only=True)
class Zero:
    """R1-Zero's template. text: holds `{question}` exactly once; a base of few parameters wants a short one. begin:
    stands before it, say the token that a published base wants at every beginning."""

    form: ClassVar[str] = "zero"
    text: str = (
        "This is a conversation between User and Assistant. User poses a question and Assistant solves it. Assistant "
        "first works the solution out in its mind and only then tells User the answer. The reasoning is put between "
        "<think> and </think>, the answer between <answer> and </answer>, so that a reply reads: <think> the "
        "reasoning </think> <answer> the answer </answer>. User: {question}. Assistant:"
    )
    begin: str = ""

    def __post_init__(self):
        check(self)
        found = self.text.count(_SLOT)
        require(found == 1, f"template.Zero.text holds {_SLOT} {found} times; it must stand in it exactly once")

    def render(self, question: str) -> str:
        """The prompt of one question."""
        return self.begin + self.text.replace(_SLOT, question)


@dataclass(frozen=True, kw_only=True)
class Chat:
    """R1's chat template: turns of user and assistant, each behind its token; the assistant's ends with `end`. system:
    what stands before the first turn; DeepSeek-R1 wants none."""

    form: ClassVar[str] = "chat"
    system: str = ""
    user: str = "<｜User｜>"
    assistant: str = "<｜Assistant｜>"
    end: str = "<｜end▁of▁sentence｜>"

    def __post_init__(self):
        check(self)
        require(bool(self.user and self.assistant), "template.Chat.user and assistant must not be empty")

    def render(self, question: str) -> str:
        """The prompt of one question."""
        return self.conversation([question])

    def conversation(self, turns: Sequence[str]) -> str:
        """The prompt of a conversation: texts of user and assistant in turn, the user's last. The reasoning of earlier
        replies is dropped: all up to `</think>`."""
        require(len(turns) % 2 == 1, f"a conversation of {len(turns)} turns does not end with the user's")
        text = self.system
        for number, turn in enumerate(turns):
            if number % 2 == 0:
                text += self.user + turn
            else:
                text += self.assistant + turn.rpartition("</think>")[2].lstrip() + self.end
        return text + self.assistant
