r"""Answers of mathematics: `\boxed{}`, and equality of numbers and TeX by math-verify (sympy).

    \frac{1}{2} = 1/2 = 0.5        2\sqrt{3} = \sqrt{12}        1,000 = 1000        x = 5, 5

math-verify reads what a policy wrote, so it runs in a process of its own with a budget of CPU time (verifier.py); that
process is started at the first answer that needs it and again after it was killed. Most answers need none: what is
written like the truth is right, two whole numbers that differ are not, and words are compared as words, since
math-verify takes letters for factors that may be swapped.
"""

import functools
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from r1jax.base.fields import UserError, check, require
from r1jax.reward.answers import boxed, canonical, equal
from r1jax.reward.response import Question, Response
from r1jax.reward.rules import Score

_LONGEST = 500  # characters of an answer
_MOST = 4  # different boxes; one answer has few spellings
_INTEGER = re.compile(r"[+-]?[0-9]+")
_WORDS = re.compile(r"[^\W\d_](?:[^\W\d_]|[ '’-])*")
_BRACES = re.compile(r"\\boxed|\\.|[{}$]", re.DOTALL)
_WRAPPED = re.compile(
    r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}|\(([^()]*)\)|\$([^$]*)\$|\\\((.*)\\\)", re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class MathAccuracy:
    """1 if the response's answer equals the truth as mathematics, else 0, of questions that have a truth. The answer
    is what stands in a box, else what `reward.answers` finds. Where there are several boxes, every one must be right.
    seconds: of CPU time a comparison.
    """

    seconds: float = 3.0
    weight: float = 1.0
    name: str = "accuracy"

    def __post_init__(self):
        check(self)
        require(self.seconds > 0, f"MathAccuracy.seconds is {self.seconds}; it must be positive")

    def score(self, question: Question, response: Response) -> Score:
        """Judges complete, well-formed responses whose answer can be read in time; all others are 0 with their
        status."""
        if not question.answer:
            return Score(0.0, "inapplicable")
        if response.fault:
            return Score(0.0, response.fault)
        answers = set(boxed(response.parts.reply)) or {response.parts.answer}
        if len(answers) > _MOST:
            return Score(0.0, "unparsable")
        for answer in sorted(answers, key=len):
            said = compare(question.answer, answer, self.seconds)
            if said != "right":
                return Score(0.0, "judged" if said == "wrong" else said)
        return Score(1.0)


@functools.lru_cache(maxsize=10_000)
def compare(truth: str, answer: str, seconds: float) -> str:
    """'right', 'wrong', 'unparsable' or 'timeout'. UserError where math-verify does not start."""
    truth, answer = _bare(truth), _bare(answer)
    if not answer or len(answer) > _LONGEST or not _whole(answer):
        return "unparsable"
    if equal(answer, truth):
        return "right"
    if _INTEGER.fullmatch(canonical(answer)) and _INTEGER.fullmatch(canonical(truth)):
        return "wrong"
    if _WORDS.fullmatch(truth):
        return "right" if answer.casefold() == truth.casefold() and len(truth) > 1 else "wrong"
    return _VERIFIER.ask(truth, answer, seconds)


def _whole(text: str) -> bool:
    """Whether the text is one piece of TeX: its braces paired, no dollars, and no further box inside."""
    depth = 0
    for piece in _BRACES.findall(text):
        depth += {"{": 1, "}": -1}.get(piece, 0)
        if depth < 0 or piece in ("$", "\\boxed"):
            return False
    return depth == 0


def _bare(text: str) -> str:
    """The text without what merely wraps all of it: dollars, \\text{}, parentheses around words."""
    text = text.strip()
    while found := _WRAPPED.fullmatch(text):
        inside = next(group for group in found.groups() if group is not None).strip()
        if text.startswith("(") and not _WORDS.fullmatch(inside):  # a pair or an interval
            break
        text = inside
    return text


class _Verifier:
    """The process that runs verifier.py."""

    def __init__(self):
        self._process: subprocess.Popen | None = None
        self._owner, self._lock = 0, threading.Lock()

    def ask(self, truth: str, answer: str, seconds: float) -> str:
        with self._lock:
            if self._process is None or self._owner != os.getpid():
                self._start()
            try:
                self._process.stdin.write(json.dumps([truth, answer, seconds]) + "\n")
                self._process.stdin.flush()
                said = self._process.stdout.readline().strip()
            except BrokenPipeError:
                said = ""
            if said:
                return said
            self._end()
            return "timeout"

    def _start(self) -> None:
        # In a session of its own: Ctrl-C in a terminal goes to the trainer, which stops after this rollout. -P: the
        # folder of the script holds names of the standard library (statistics).
        command = [sys.executable, "-P", str(Path(__file__).with_name("verifier.py"))]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        self._owner = os.getpid()
        if self._process.stdout.readline().strip() != "ready":
            self._end()
            raise UserError(f"MathAccuracy: {' '.join(command)} does not start; is math-verify installed?")

    def _end(self) -> None:
        process, self._process = self._process, None
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


_VERIFIER = _Verifier()
