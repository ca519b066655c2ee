"""What the paper found (DeepSeek-R1, 2501.12948), each finding as lines of numbers that are set beside its own.

Some lines decide. An ordering (a difference above 0) holds when its interval excludes the opposite and fails when the
interval lies on the other side; between the two it is open, as it is without an interval. A level (at least twice as
long, at most so many right) is reached or missed by the mean. A finding shows when all that decides holds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from r1jax.report.estimate import Estimate, over
from r1jax.report.folder import Folder
from r1jax.report.quantities import (
    Of,
    compute,
    difference,
    drift,
    first,
    form_gain,
    gain,
    growth,
    last,
    level,
)

Unit = Literal["share", "points", "times", "number"]
ORDERING = ("above", 0.0)
BASE, ZERO, DEV1, DEV2, DEV3, R1 = (f"evaluate_{name}" for name in ("base", "zero", "dev1", "dev2", "dev3", "r1"))
DISTILLED, STUDENT, WEAK, WEAK_ZERO = (
    f"evaluate_{name}" for name in ("student_distilled", "student_rl", "weak_base", "weak_zero")
)


@dataclass(frozen=True)
class Line:
    """One number. paper: the paper's, in words. wanted: what decides, None where the line only informs; `above` 0 is an
    ordering, `at least` and `at most` are levels. either: of the lines marked so one has to hold."""

    what: str
    paper: str
    unit: Unit
    of: Of
    wanted: tuple[Literal["above", "at least", "at most"], float] | None = None
    either: bool = False

    def verdict(self, found: Estimate | None) -> str:
        """'holds', 'fails', 'open' or 'not run'; '' where nothing is decided."""
        if self.wanted is None:
            return ""
        if found is None:
            return "not run"
        kind, bound = self.wanted
        if math.isnan(found.mean):
            return "open"
        if kind != "above":
            return "holds" if (found.mean >= bound if kind == "at least" else found.mean <= bound) else "fails"
        if found.low is None or found.high is None:
            return "open"
        return "holds" if found.low > bound else "fails" if found.high < bound else "open"


@dataclass(frozen=True)
class Finding:
    """One claim of the paper. remark: what a reader must know beside it."""

    claim: str
    lines: tuple[Line, ...]
    remark: str = ""

    def estimates(self, folders: Sequence[Folder]) -> list[Estimate | None]:
        """The number of each line over the runs."""
        return [over([line.of(folder) for folder in folders]) for line in self.lines]

    def verdict(self, found: Sequence[Estimate | None]) -> str:
        """'shows', 'does not show', 'open', 'not run', or 'shows so far' where some of what decides was not run."""
        said = [(line, line.verdict(number)) for line, number in zip(self.lines, found, strict=True)]
        needed = {verdict for line, verdict in said if line.wanted and not line.either}
        choices = {verdict for line, verdict in said if line.either}
        if choices:
            needed.add(next(verdict for verdict in ("holds", "open", "fails", "not run") if verdict in choices))
        if needed == {"not run"}:
            return "not run"
        for met, word in (("fails", "does not show"), ("open", "open"), ("not run", "shows so far")):
            if met in needed:
                return word
        return "shows"


def _accuracy(what: str, paper: str, stage: str, *wanted) -> Line:
    return Line(f"{what}: pass@1", paper, "share", level(stage, "pass@1"), *wanted)


def _gain(what: str, paper: str, before: str, after: str) -> Line:
    return Line(what, paper, "points", gain(before, after), ORDERING)


FINDINGS = (
    Finding(
        "Pure RL makes a base reason, with one answer and with a vote",
        (
            _accuracy("base", "15.6%", BASE, ("at most", 0.156)),
            _accuracy("R1-Zero", "71.0%", ZERO, ("at least", 0.71)),
            Line("base: majority vote", "", "share", level(BASE, "cons")),
            Line("R1-Zero: majority vote", "86.7%", "share", level(ZERO, "cons"), ("at least", 0.867)),
            _gain("gain by RL", "+55.4 points", BASE, ZERO),
            Line("of it ability: right in any format", "", "points", gain(BASE, ZERO, "pass@1_any_format"), ORDERING),
            Line("of it format: the rest", "", "points", form_gain),
            Line("gain by voting", "+15.7 points", "points", gain(ZERO, ZERO, "cons", than="pass@1")),
        ),
        "The paper's numbers are of AIME 2024.",
    ),
    Finding(
        "Responses grow longer by themselves",
        (
            Line("tokens a response, first rollout", "540", "number", first("zero", "length/mean")),
            Line("tokens a response, last five rollouts", "9,600", "number", last("zero", "length/mean")),
            Line("growth", "17.8 times", "times", growth("zero", "length/mean"), ("at least", 2.0)),
        ),
    ),
    Finding(
        "Reflection rises, and corrections help",
        (
            Line("reflective words a response, first rollout", "", "number", first("zero", "words/reflection")),
            Line("reflective words a response, last five rollouts", "", "number", last("zero", "words/reflection")),
            Line("growth", "5 to 7 times", "times", growth("zero", "words/reflection"), ("at least", 3.0)),
            Line("reflective words a response, base evaluated", "", "number", level(BASE, "reflection")),
            Line("reflective words a response, R1-Zero evaluated", "", "number", level(ZERO, "reflection")),
            Line("base: right among responses that look back", "", "share", level(BASE, "reflective")),
            Line("R1-Zero: right among responses that look back", "", "share", level(ZERO, "reflective")),
            Line("the difference", "above 0", "points", gain(BASE, ZERO, "reflective"), ORDERING),
        ),
    ),
    Finding(
        "R1-Zero mixes languages; the language reward mends it at small cost",
        (
            Line("R1-Zero: thinking in the question's language", "", "share", level(ZERO, "language")),
            Line("Dev2, with the reward: the same", "stable", "share", level(DEV2, "language"), ("at least", 0.98)),
            Line("the difference", "above 0", "points", gain(ZERO, DEV2, "language"), ORDERING),
            Line("Dev2 less R1-Zero: pass@1", "-3.9 points", "points", gain(ZERO, DEV2)),
        ),
        "Dev2 differs from R1-Zero by its cold start too: the last line is not the language reward's cost alone.",
    ),
    Finding(
        "The cold start costs accuracy, RL wins it back, R1 ends highest",
        (
            _accuracy("R1-Zero", "77.9%", ZERO),
            _accuracy("Dev1, cold start", "59.0%", DEV1),
            _accuracy("Dev2, reasoning RL", "74.0%", DEV2),
            _accuracy("Dev3, second fine-tuning", "78.1%", DEV3),
            _accuracy("R1, all-scenario RL", "79.8%", R1, ("at least", 0.798)),
            _gain("the cold start costs: R1-Zero less Dev1", "+18.9 points", DEV1, ZERO),
            _gain("RL wins it back: Dev2 less Dev1", "+15.0 points", DEV1, DEV2),
            _gain("R1 ends above R1-Zero: R1 less R1-Zero", "+1.9 points", ZERO, R1),
            Line("R1 less Dev2", "+5.8 points", "points", gain(DEV2, R1)),
            Line("R1 less Dev3", "+1.7 points", "points", gain(DEV3, R1)),
        ),
        "The paper's numbers are of AIME 2024.",
    ),
    Finding(
        "The last stages make it pleasant",
        (
            Line("R1-Zero: general answers won", "24.7%", "share", level(ZERO, "win_rate")),
            Line("R1: general answers won", "87.6%", "share", level(R1, "win_rate")),
            Line("the difference", "+62.9 points", "points", gain(ZERO, R1, "win_rate"), ORDERING),
            Line(
                "a third of R1's, less R1-Zero's",
                "+4.5 points",
                "points",
                difference(level(R1, "win_rate"), level(ZERO, "win_rate"), share=1 / 3),
                ORDERING,
            ),
        ),
        "The paper's judge is AlpacaEval 2.0's; here it is the one that no training sees.",
    ),
    Finding(
        "A reward model that is followed too long is gamed",
        (
            Line("rise of the model's reward", "rises", "number", drift(None), ORDERING),
            Line("fall of reward/manners", "", "number", drift("reward/manners", falls=True), ORDERING, True),
            Line("fall of reward/accuracy", "falls", "number", drift("reward/accuracy", falls=True), ORDERING, True),
        ),
        "From the first to the last quarter of the rollouts in which the judge counted, in the stage that followed one "
        "longest; one of the two falls decides. Of one run the intervals are over its rollouts.",
    ),
    Finding(
        "Distilling beats RL on the small model",
        (
            _accuracy("student by distillation", "72.6%", DISTILLED),
            _accuracy("student by RL", "47.0%", STUDENT),
            Line("the difference", "+25.6 points", "points", gain(STUDENT, DISTILLED), ("at least", 0.15)),
            Line(
                "model FLOPs of RL over those of distillation",
                "",
                "times",
                compute("student_rl", "student_distilled", "curated"),
                ("at least", 1.0),
            ),
        ),
        "The paper's numbers are of AIME 2024, with a student of 32B. Distillation counts with the teacher's sampling.",
    ),
    Finding(
        "A weak base gains little from RL alone",
        (
            _accuracy("weak base", "", WEAK),
            _accuracy("weak base after RL", "", WEAK_ZERO),
            Line("gain of the weak base", "none", "points", gain(WEAK, WEAK_ZERO)),
            Line("gain of the base", "+55.4 points", "points", gain(BASE, ZERO)),
            Line(
                "half the base's gain, less the weak base's",
                "above 0",
                "points",
                difference(gain(BASE, ZERO), gain(WEAK, WEAK_ZERO), share=0.5),
                ORDERING,
            ),
        ),
        "Little is taken as less than half of what the base gains. The paper: no gain of 7B dense and of a 16B MoE.",
    ),
)
