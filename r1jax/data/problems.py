"""The kinds of problems that the miniature world poses: chains and functions.

All have `text` (what tells one from another, and by which the splits are kept apart), `answer`, `difficulty`, `domain`,
`tests`, `ask` (the question in a language) and `work` (how a writer works it in a text). No digit stands twice in one:
a model of two layers finds its place by the last operand it worked with, and would lose it there.
"""

import functools
import random
from dataclasses import dataclass
from typing import ClassVar, Protocol

APPLY = {"+": lambda a, b: (a + b) % 10, "-": lambda a, b: (a - b) % 10, "*": lambda a, b: (a * b) % 10}
WORDS = {
    "en": {"equals": "=", "wait": " wait ", "so": " so "},
    "zh": {"equals": "得", "wait": "等等", "so": "所以"},
}


@dataclass(frozen=True)
class Writer:
    """How one text is worked. slip: how probably a step is wrong. careful: checks, and goes on until it is right.
    mixed: changes the language from step to step. stride: operations of a chain that are done at once."""

    language: str
    slip: float
    careful: bool
    mixed: bool
    stride: int = 1

    def words(self, rng: random.Random) -> dict[str, str]:
        return WORDS[rng.choice(("en", "zh"))] if self.mixed else WORDS[self.language]


class Problem(Protocol):
    """tests: of a function, calls and what they return."""

    domain: ClassVar[str]
    facts: ClassVar[tuple]

    @property
    def text(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def difficulty(self) -> int: ...
    @property
    def tests(self) -> tuple[tuple[str, str], ...]: ...
    def ask(self, rng: random.Random, language: str) -> str: ...
    def work(self, rng: random.Random, writer: Writer) -> tuple[str, str]:
        """(the text of the work, the answer that the writer ends with)."""
        ...

    def guess(self, rng: random.Random) -> str:
        """An answer of somebody who did not work."""
        ...


@dataclass(frozen=True)
class Chain:
    """A start digit and the operations that follow it, each an operator in `+-*` and a digit: from left to right modulo
    10, `7+5*3-8+2` is 0. A step is written in four tokens, `+5=2`; careful writers recompute every one and mend it.

    Writers with a stride do several operations at once, `+5*3=6`, which a small model cannot do in its head however
    much it is trained; only those who check them one by one, `wait 7+5=2*3=6`, show how it is done."""

    start: int
    steps: tuple[tuple[str, int], ...]
    domain: ClassVar[str] = "math"
    tests: ClassVar[tuple] = ()
    facts: ClassVar[tuple] = ()

    _ASK: ClassVar[dict] = {
        "en": ("What is {}?", "Compute {}.", "What does {} give?"),
        "zh": ("{}等于几？", "计算{}。", "请问{}是多少？"),
    }

    @classmethod
    def draw(cls, rng: random.Random, weights: list[int]) -> "Chain":
        """weights: of 2 to 8 operations."""
        length = rng.choices(range(2, 9), weights)[0]
        start, *operands = rng.sample(range(10), length + 1)
        return cls(start, tuple((rng.choice("+-*"), operand) for operand in operands))

    @property
    def text(self) -> str:
        return str(self.start) + "".join(f"{op}{operand}" for op, operand in self.steps)

    @property
    def answer(self) -> str:
        return str(functools.reduce(lambda total, step: APPLY[step[0]](total, step[1]), self.steps, self.start))

    @property
    def difficulty(self) -> int:
        return len(self.steps)

    def ask(self, rng: random.Random, language: str) -> str:
        return rng.choice(self._ASK[language]).format(self.text)

    def work(self, rng: random.Random, writer: Writer) -> tuple[str, str]:
        text, total = str(self.start), self.start
        for first in range(0, len(self.steps), writer.stride):
            words, checked, right = writer.words(rng), "", total
            for op, operand in self.steps[first : first + writer.stride]:
                text += f"{op}{operand}"
                right = APPLY[op](right, operand)
                checked += f"{op}{operand}{words['equals']}{right}"
            result = rng.randrange(10) if rng.random() < writer.slip else right
            text += f"{words['equals']}{result}"
            if writer.careful:
                text += f"{words['wait']}{total}{checked}"
                result = right
            total = result
        return text, str(total)

    def guess(self, rng: random.Random) -> str:
        return str(rng.randrange(10))


@dataclass(frozen=True)
class Function:
    """A one-line Python function asked for in words, of 1 to 3 operations; hidden calls test it. A slip forgets the
    brackets; careful writers notice."""

    steps: tuple[tuple[str, int], ...]
    domain: ClassVar[str] = "code"
    facts: ClassVar[tuple] = ()

    _ASK: ClassVar[dict] = {"en": ("Write f: {}.", "A function f, please: {}."), "zh": ("写函数f：{}。", "请写f：{}。")}
    _SAY: ClassVar[dict] = {
        "en": {"+": "add {}", "-": "subtract {}", "*": "multiply by {}"},
        "zh": {"+": "加{}", "-": "减{}", "*": "乘{}"},
    }

    @classmethod
    def draw(cls, rng: random.Random) -> "Function":
        operands = rng.sample(range(2, 10), rng.choice((1, 2, 2, 3, 3)))
        return cls(tuple((rng.choice("+-*"), operand) for operand in operands))

    @property
    def text(self) -> str:
        return "f" + "".join(f"{op}{operand}" for op, operand in self.steps)

    @property
    def difficulty(self) -> int:
        return len(self.steps)

    @property
    def answer(self) -> str:
        return f"def f(x):return {functools.reduce(self._apply, self.steps, 'x')}"

    @staticmethod
    def _apply(expression: str, step: tuple[str, int]) -> str:
        op, operand = step
        is_sum = any(sign in expression for sign in "+-")
        return f"({expression}){op}{operand}" if op == "*" and is_sum else f"{expression}{op}{operand}"

    @property
    def tests(self) -> tuple[tuple[str, str], ...]:
        do = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
        value = lambda x: functools.reduce(lambda total, step: do[step[0]](total, step[1]), self.steps, x)  # noqa: E731
        return tuple((f"f({x})", str(value(x))) for x in (0, 1, -3, 17))

    def ask(self, rng: random.Random, language: str) -> str:
        said = [self._SAY[language][op].format(operand) for op, operand in self.steps]
        return rng.choice(self._ASK[language]).format({"en": ", ", "zh": "，"}[language].join(said))

    def work(self, rng: random.Random, writer: Writer) -> tuple[str, str]:
        text, expression = "", "x"
        for op, operand in self.steps:
            words = writer.words(rng)
            right = self._apply(expression, (op, operand))
            expression = f"{expression}{op}{operand}" if rng.random() < max(writer.slip, 0.15) else right
            text += f"{words['equals']}{expression}"
            if writer.careful and expression != right:
                text += f"{words['wait']}{words['equals']}{right}"
                expression = right
        return text, f"def f(x):return {expression}"

    def guess(self, rng: random.Random) -> str:
        return f"def f(x):return x{rng.choice('+-*')}{rng.randrange(2, 10)}"
