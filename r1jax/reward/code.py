"""The reward of a program: it runs to its end, and hidden calls return what they should (R1 paper, section 2.2.2).

The program, and all that comes back from it, is the work of an adversary who runs in the same interpreter as the calls
do. So the sandbox is told the calls but not their results: a forged report pays no more than a right one, because to
forge it is to know the answers. What comes back is compared outside: as text no longer than a right answer could be,
read as a literal, never evaluated.
"""

import ast
import functools
import re
import warnings
from dataclasses import dataclass

from r1jax.base.fields import UserError, check
from r1jax.reward.response import Question, Response
from r1jax.reward.rules import Score
from r1jax.reward.sandbox import Limits, run

_DEFINED = re.compile(r"^[ \t]*(?:(?:def|class)[ \t]+(\w+)|(\w+)[ \t]*=)", re.MULTILINE)
_WORD = re.compile(r"\w+")
UNPARSABLE = b"unparsable"
# What the program prints goes nowhere: the pipe is kept for one line per call, the result in ASCII.
_DRIVER = """
import os
report, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
os.dup2(nowhere, 1)
os.dup2(nowhere, 2)
lines = []
try:
    code = compile({program!r}, "answer", "exec")
except BaseException:
    lines.append({unparsable!r})
else:
    space = {{"__name__": "answer"}}
    exec(code, space)
    for call in {calls!r}:
        try:
            lines.append(ascii(eval(call, space)))
        except BaseException:
            lines.append("")
with open(report, "w") as file:
    file.write("\\n".join(lines))
"""


@dataclass(frozen=True, kw_only=True)
class Code:
    """1 if the reply is a Python program whose functions pass all tests of the question, else 0; of a question that
    asks for no program nothing can be said.

    The program is the last closed ``` block of the reply, or all of it where there is no ```. limits: of one program
    with all its tests. without_sandbox: where no sandbox can be had, programs run under limits alone, with the rights,
    files and network of whoever trains; the default is to refuse.
    """

    limits: Limits = Limits()
    without_sandbox: bool = False
    weight: float = 1.0
    name: str = "code"

    def __post_init__(self):
        check(self)

    def score(self, question: Question, response: Response) -> Score:
        """Judges replies to questions of the domain 'code'. UserError where no sandbox can be had."""
        tests = question.tests
        if question.domain != "code" or not tests:
            return Score(0.0, "inapplicable")
        if response.fault:
            return Score(0.0, response.fault)
        source = program(response.parts.reply)
        if not source or not _defines(source, tests):
            return Score(0.0, "unparsable")
        try:
            return _verdict(source, tests, self.limits, self.without_sandbox)
        except _Unsettled:
            return Score(0.0, "timeout")


class _Unsettled(Exception):
    """A program that was not run to its end; the next time it may be."""


@functools.lru_cache(maxsize=10_000)  # a group's samples are often the same program
def _verdict(source: str, tests: tuple[tuple[str, str], ...], limits: Limits, without_sandbox: bool) -> Score:
    calls = tuple(call for call, _ in tests)
    driver = _DRIVER.format(program=source, calls=calls, unparsable=UNPARSABLE.decode())
    status, output = run(driver, limits, without_sandbox=without_sandbox)
    if status in ("timeout", "broken"):
        raise _Unsettled
    if output == UNPARSABLE:
        return Score(0.0, "unparsable")
    said = output.decode("ascii", "replace").split("\n")
    right = status == "ok" and len(said) == len(tests)
    return Score(float(right and all(same(one, truth) for one, (_, truth) in zip(said, tests, strict=True))))


def program(reply: str) -> str | None:
    """The program that a reply gives, without its fence; None where a fence is left open and none before it is not."""
    pieces = reply.split("```")
    if len(pieces) == 1:
        return reply
    blocks = pieces[1 : len(pieces) - 1 : 2]
    if not blocks:
        return None
    language, _, source = blocks[-1].partition("\n")
    return source if language.strip().lower() in ("", "python", "python3", "py") else None


def same(said: str, truth: str) -> bool:
    """Whether a reported result is the literal `truth`, in type and value."""
    try:
        wanted = ast.literal_eval(truth)
    except (ValueError, SyntaxError) as error:
        raise UserError(f"a test expects {truth!r}, which is no Python literal") from error
    if len(said) > 2 * len(ascii(wanted)) + 16:
        return False
    try:
        with warnings.catch_warnings(action="ignore"):  # of text that is almost Python
            found = ast.literal_eval(said)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False
    return type(found) is type(wanted) and found == wanted


def _defines(source: str, tests: tuple[tuple[str, str], ...]) -> bool:
    """Whether the program defines anything that the first call speaks of. Saves a sandbox where it is no program."""
    defined = {name for match in _DEFINED.finditer(source) for name in match.groups() if name}
    return bool(defined & set(_WORD.findall(tests[0][0])))
