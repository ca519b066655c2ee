"""Finds the answer in a response of R1-Zero's template, and compares it with the truth.

    <think> reasoning </think> <answer> 7 </answer>

The text comes from a policy that is paid to fool this file. So: the tags are counted before anything is read, nothing
is evaluated, no number is converted (`int` of a million digits is slow or raises), everything is linear in the length
of the text, and only ASCII digits are numbers (`int('٣')` is 3).
"""

import re
from typing import NamedTuple

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_ANY_TAG = re.compile("|".join(TAGS))
# A minus right after a digit, a letter or a bracket subtracts: the last number of `9-4` is 4. Digits of other scripts
# are found as well, so that `5٣` does not end in a 5; `canonical` then leaves them as text.
_NUMBER = re.compile(r"(?:(?<![\dA-Za-z_)])-)?\d+(?:\.\d+)?")
_DECIMAL = re.compile(r"([+-]?)([0-9]+)(?:\.([0-9]+))?")


class Parts(NamedTuple):
    """The two parts of a well-formed response, stripped."""

    thinking: str
    answer: str


def parse(text: str) -> Parts | None:
    """The parts of a response, or None unless it is the template and nothing else: each tag once, in order, only white
    space before, between and after the parts, and an answer that is not empty."""
    if any(text.count(tag) != 1 for tag in TAGS):
        return None
    before, _, rest = text.partition("<think>")
    thinking, _, rest = rest.partition("</think>")
    between, _, rest = rest.partition("<answer>")
    answer, closed, after = rest.partition("</answer>")
    if not closed or before.strip() or between.strip() or after.strip() or not answer.strip():
        return None
    return Parts(thinking.strip(), answer.strip())


def plain(text: str) -> str:
    """The text with every tag replaced by a space."""
    return _ANY_TAG.sub(" ", text)


def thinking(text: str) -> str:
    """The reasoning of any response: what stands before the first `</think>`, and all of it where that is missing."""
    return plain(text.partition("</think>")[0])


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
