"""Finds the answer in a response, and compares it with the truth.

    <think> reasoning </think> <answer> 7 </answer>         form 'zero', of R1-Zero's template
    <think> reasoning </think> In the end there are 7.      form 'chat', after the cold start: a summary for the reader

The text comes from a policy that is paid to fool this file. So: the tags are counted before anything is read, nothing
is evaluated, no number is converted (`int` of a million digits is slow or raises), everything is linear in the length
of the text, and only ASCII digits are numbers (`int('٣')` is 3).
"""

import re
from typing import Literal, NamedTuple

Form = Literal["zero", "chat"]
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_ANY_TAG = re.compile("|".join(TAGS))
# A minus right after a digit, a letter or a bracket subtracts: the last number of `9-4` is 4. Digits of other scripts
# are found as well, so that `5٣` does not end in a 5; `canonical` then leaves them as text.
_NUMBER = re.compile(r"(?:(?<![\dA-Za-z_)])-)?\d+(?:\.\d+)?")
_BRACES = re.compile(r"\\boxed\s*\{|\\[{}]|[{}]")
_DECIMAL = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]+))?")


class Parts(NamedTuple):
    """A well-formed response: its reasoning, its reply to the reader and the answer that the reply gives, stripped."""

    thinking: str
    reply: str
    answer: str


def parse(text: str, form: Form = "zero") -> Parts | None:
    """The parts of a response, or None unless it has its form and nothing else.

    Each tag of the form stands once, in order, those of the other nowhere; only white space before and between the
    parts; a reply that is not empty. A reply in the form 'chat', or with a box, gives the answer that `stated` finds.
    """
    wanted = TAGS if form == "zero" else TAGS[:2]
    if any(text.count(tag) != (tag in wanted) for tag in TAGS):
        return None
    before, _, rest = text.partition("<think>")
    thinking, closed, reply = rest.partition("</think>")
    between = after = ""
    if form == "zero":
        between, _, reply = reply.partition("<answer>")
        reply, closed, after = reply.partition("</answer>")
    reply = reply.strip()
    if not closed or before.strip() or between.strip() or after.strip() or not reply:
        return None
    return Parts(thinking.strip(), reply, stated(reply) if form == "chat" or boxed(reply) else reply)


def stated(reply: str) -> str:
    """The one answer that a summary states: what its boxes hold, else its only number, else all of it. One that states
    two different answers states none: it is empty."""
    found = boxed(reply) or [match[0] for match in _NUMBER.finditer(reply)]
    answers = {canonical(answer) for answer in found}
    if len(answers) > 1:
        return ""
    return answers.pop() if answers else reply


def boxed(text: str) -> list[str]:
    """What the outermost `\\boxed{...}` hold, braces inside them paired; a box that does not close holds nothing."""
    found, start, depth = [], None, 0
    for match in _BRACES.finditer(text):
        piece = match[0]
        if start is None and piece.startswith("\\boxed"):
            start, depth = match.end(), 1
        elif start is not None and not piece.startswith(("\\{", "\\}")):
            depth += -1 if piece == "}" else 1
            if depth == 0:
                found.append(text[start : match.start()].strip())
                start = None
    return found


def plain(text: str) -> str:
    """The text with every tag replaced by a space."""
    return _ANY_TAG.sub(" ", text)


def thinking(text: str) -> str:
    """The reasoning of any response: what stands before the first `</think>`, and all of it where that is missing."""
    return plain(text.partition("</think>")[0])


def reply(text: str) -> str:
    """What any response says to the reader: what stands after the last `</think>`, and all of it where nothing was
    thought; nothing where the thinking does not end. Of an answer in tags, what they hold."""
    _, closed, said = text.rpartition("</think>")
    if not closed and "<think>" in text:
        return ""
    _, opened, answer = said.partition("<answer>")
    return (answer.partition("</answer>")[0] if opened else said).strip()


def last_number(text: str) -> str | None:
    """The last number in the text, tags ignored."""
    last = None
    for match in _NUMBER.finditer(plain(text)):
        last = match[0]
    return last


def canonical(answer: str) -> str:
    """One spelling for equal answers: `+07.50` is `7.5`, `-0` is `0`; what is no decimal number is only stripped."""
    answer = answer.strip()
    match = _DECIMAL.fullmatch(answer)
    if not match:
        return answer
    sign, whole, fraction = match[1], match[2].lstrip("0") or "0", (match[3] or "").rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return f"-{number}" if sign == "-" and number != "0" else number


def equal(answer: str, truth: str) -> bool:
    """Whether two answers are the same number, or else the same text. An empty answer equals nothing."""
    return bool(answer.strip()) and canonical(answer) == canonical(truth)
