"""The report over small runs written by hand: findings and intervals worked out on paper, hostile text, mistakes."""

import json
import math
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from r1jax.base.metrics import read
from r1jax.main import main
from r1jax.report import charts, page, tables
from r1jax.report.estimate import Estimate, Value, mean_error, minus, over, paired_error, share, share_error
from r1jax.report.findings import FINDINGS
from r1jax.report.folder import Folder
from r1jax.reward.grade import Grade
from r1jax.reward.statistics import interval

sys.path.append(str(Path(__file__).parent.parent / "tools"))

import speed  # noqa: E402

TINY = Path(__file__).parent / "tiny"
T3 = 4.302652729911275  # of Student's t with 2 degrees of freedom, 97.5%


def run(root: Path, stages: dict[str, dict], name: str = "small", **files: dict) -> Path:
    """A run's folder. A stage's files by name: a list of records is .jsonl, a dict .json, a text as it is."""
    root.mkdir(parents=True)
    (root / "recipe.json").write_text(json.dumps({"recipe": name, "stages": dict.fromkeys(stages, "module")}))
    for file, content in files.items():
        (root / f"{file}.json").write_text(json.dumps(content))
    for stage, contents in stages.items():
        (root / stage).mkdir()
        for file, content in contents.items():
            if isinstance(content, list):
                text = "".join(json.dumps(record) + "\n" for record in content)
                (root / stage / f"{file}.jsonl").write_text(text)
            elif isinstance(content, dict):
                (root / stage / f"{file}.json").write_text(json.dumps(content))
            else:
                (root / stage / file).write_text(content)
    return root


def evaluated(*questions: str, seed: int = 0, **changes) -> dict:
    """An evaluation of one letter a sample: R right; r right, but not in the format; L right and l wrong, looking back;
    any other wrong. Its results are what the letters say, but for `changes`."""
    samples = [
        {
            "id": id,
            "domain": "math",
            "sample": i,
            "prompt": f"What is {id}?",
            "completion": f"It is {letter}.",
            "correct": letter in "RL",
            "correct_any_format": letter in "RrL",
            "formatted": letter in "RL",
            "language": 1.0,
            "reflections": int(letter in "Ll"),
            "answer": "1" if letter in "RL" else "2" if letter == "2" else None,
            "tokens": 10,
        }
        for id, letters in enumerate(questions)
        for i, letter in enumerate(letters)
    ]
    k = len(questions[0])
    mean = lambda field: sum(sample[field] for sample in samples) / len(samples)  # noqa: E731
    results = {
        "pass@1": mean("correct"),
        "pass@1_ci95": [0.1, 0.2],
        "pass@1_any_format": mean("correct_any_format"),
        f"cons@{k}": 1.0,
        "format": mean("formatted"),
        "language": 1.0,
        "reflection": mean("reflections"),
        "tokens_mean": 10.0,
        "questions": len(questions),
        "samples": k,
        "by_difficulty": {},
        "seed": seed,
    }
    return {"results": results | changes, "samples": samples}


def found(number: int, *roots: Path) -> dict[str, Estimate | None]:
    """The numbers of a finding by what they are; the verdict under ''."""
    finding, folders = FINDINGS[number - 1], [Folder(root) for root in roots]
    estimates = finding.estimates(folders)
    return {line.what: e for line, e in zip(finding.lines, estimates, strict=True)} | {"": finding.verdict(estimates)}


# Intervals


def test_over_runs_the_interval_is_students():
    reach = T3 * 0.1 / math.sqrt(3)
    assert over([Value(0.5), Value(0.6), Value(0.7)]) == pytest.approx((0.6, 0.6 - reach, 0.6 + reach, 3))
    reach = 12.706204736432095 * math.sqrt(0.02) / math.sqrt(2)  # deviation of .1 and .3
    assert over([Value(0.1), None, Value(0.3)]) == pytest.approx((0.2, 0.2 - reach, 0.2 + reach, 2))
    assert over([Value(0.5, 0.2)] * 3) == (0.5, 0.5, 0.5, 3)


def test_one_run_has_the_interval_of_its_questions_or_none():
    assert over([Value(0.5, 0.1), None]) == pytest.approx((0.5, 0.5 - 0.196, 0.5 + 0.196, 1))
    assert over([Value(0.5)]) == (0.5, None, None, 1)
    assert over([None, None]) is None
    assert math.isnan(over([Value(0.5), Value(math.nan)]).mean)


def test_a_share_over_questions_is_that_of_the_evaluation():
    counts = {0: (4, 4), 1: (2, 4), 2: (0, 4), 3: (1, 4)}
    right = [Grade(i < n, False, False, True, False, 1.0, 0, None, 1) for n, _ in counts.values() for i in range(4)]
    low, high = interval([right[i : i + 4] for i in range(0, 16, 4)], "correct")
    reach = 1.96 * share_error(counts)
    assert (share(counts) - reach, share(counts) + reach) == pytest.approx((low, high))


def test_a_share_of_what_differs_from_question_to_question():
    """3 of 4: residuals 2 - 3/4 x 2 = 1/2 and 1 - 3/4 x 2 = -1/2, over 4 samples; 2 / (2 - 1) of their squares."""
    assert share({0: (2, 2), 1: (1, 2), 2: (0, 0)}) == 0.75
    assert share_error({0: (2, 2), 1: (1, 2)}) == pytest.approx(math.sqrt(2 * 2 * (1 / 8) ** 2))
    assert share({0: (0, 0)}) is share_error({}) is share_error({0: (1, 2)}) is None


def test_a_difference_is_paired():
    """Differences of the questions 1/2, 1/2, 0, 1: deviation sqrt(1/6), over the root of 4."""
    after, before = {0: (2, 2), 1: (1, 2), 2: (0, 2), 3: (2, 2)}, {0: (1, 2), 1: (0, 2), 2: (0, 2), 3: (0, 2)}
    assert paired_error(after, before) == pytest.approx(math.sqrt(1 / 6) / 2)
    assert (
        paired_error(after, {**before, 4: (0, 2)}) is None and paired_error(after, dict.fromkeys(after, (0, 0))) is None
    )
    assert minus(Value(5, 3), Value(1, 4)) == (4, 5)
    assert minus(Value(5, 3), Value(1, 4), 1.5) == (4, 1.5) and minus(Value(5, 3), Value(1)) == (4, None)
    assert mean_error([1, 3]) == 1 and mean_error([1]) is None


# Findings


def test_reasoning_of_one_run(tmp_path):
    """Base right in 1 of 8, in any format 3 of 8; zero in 7 of 8. Gains of the questions 1/2, 1, 1, 1/2."""
    root = run(
        tmp_path / "a",
        {
            "evaluate_base": evaluated("Rx", "r2", "2r", "22", **{"cons@2": 0.25}),
            "evaluate_zero": evaluated("RR", "RR", "RR", "R2", **{"cons@2": 0.875}),
        },
    )
    got = found(1, root)
    reach = 1.96 * math.sqrt(4 * 0.25**2 / 3) / 2
    assert got["base: pass@1"].mean == 0.125 and got["R1-Zero: pass@1"].mean == 0.875
    assert got["gain by RL"] == pytest.approx((0.75, 0.75 - reach, 0.75 + reach, 1))
    assert got["of it ability: right in any format"].mean == 0.5 and got["of it format: the rest"].mean == 0.25
    # Votes: all right but the last question, a tie: 1/2, as its share. So nothing is added, for sure.
    assert got["gain by voting"] == (0, 0, 0, 1)
    assert got[""] == "shows"


def test_reasoning_over_three_seeds(tmp_path):
    """Gains 1, 1/2, 3/4; voting gains 1/8 each."""
    after = [("RR", "RR"), ("RR", "22"), ("RR", "R2")]
    roots = [
        run(
            tmp_path / str(seed),
            {
                "evaluate_base": evaluated("22", "rr", seed=seed),
                "evaluate_zero": evaluated(*questions, **{"cons@2": gain + 0.125}),
            },
        )
        for seed, (questions, gain) in enumerate(zip(after, (1, 0.5, 0.75), strict=True))
    ]
    got, reach = found(1, *roots), T3 * 0.25 / math.sqrt(3)
    assert got["gain by RL"] == pytest.approx((0.75, 0.75 - reach, 0.75 + reach, 3))
    assert got["gain by voting"] == pytest.approx((0.125, 0.125, 0.125, 3))
    assert got["of it ability: right in any format"] == pytest.approx((0.25, 0.25 - reach, 0.25 + reach, 3))
    assert got[""] == "open"  # the ability's interval holds 0


def trained(key: str, *values: float) -> list[dict]:
    """Metrics of rollouts at every second step."""
    return [{"step": 2 * i + 1, "loss": 1.0} | {key: value} for i, value in enumerate(values)]


def test_length(tmp_path):
    a = run(tmp_path / "a", {"zero": {"metrics": trained("length/mean", 10, 99, 20, 22, 24, 26, 28)}})
    got = found(2, a)
    assert [e and e.mean for e in list(got.values())[:3]] == [10, 24, 2.4] and got[""] == "shows"
    b = run(tmp_path / "b", {"zero": {"metrics": trained("length/mean", 10, 12, 14)}})
    assert found(2, b)["growth"] == (1.3, None, None, 1) and found(2, b)[""] == "does not show"
    reach = 12.706204736432095 * math.sqrt((2.4 - 1.3) ** 2 / 2) / math.sqrt(2)
    assert found(2, a, b)["growth"] == pytest.approx((1.85, 1.85 - reach, 1.85 + reach, 2))
    c = run(tmp_path / "c", {"zero": {"metrics": trained("length/mean", 10)}})
    assert found(2, c)["growth"] is None and found(2, c)[""] == "not run"


def test_reflection(tmp_path):
    """Of those that look back, base right in 1 of 4, zero in 6 of 8."""
    base, zero = evaluated("Ll", "ll", "22", "2R"), evaluated("LL", "LL", "lL", "lL")
    stages = {"evaluate_base": base, "zero": {"metrics": trained("words/reflection", 0.1, 0.3, 0.5)}}
    got = found(3, run(tmp_path / "a", stages | {"evaluate_zero": zero}))
    assert got["growth"].mean == pytest.approx(4)
    assert got["base: right among responses that look back"].mean == 0.25
    assert got["R1-Zero: right among responses that look back"].mean == 0.75
    # Moved by the questions: zero (2 - 3/2, the same, 1 - 3/2, the same) / 8, base (1 - 1/2, -1/2, 0, 0) / 4.
    moved = [1 / 16 - 1 / 8, 1 / 16 + 1 / 8, -1 / 16, -1 / 16]
    reach = 1.96 * math.sqrt(4 / 3 * sum(e * e for e in moved))
    assert got["the difference"] == pytest.approx((0.5, 0.5 - reach, 0.5 + reach, 1))
    assert got[""] == "shows"
    got = found(3, run(tmp_path / "b", stages | {"evaluate_zero": evaluated("RR", "RR", "RR", "RR")}))
    assert math.isnan(got["the difference"].mean) and got[""] == "open"
    got = found(3, run(tmp_path / "c", {"zero": {"metrics": trained("words/reflection", 0.0, 0.3, 0.5)}}))
    assert math.isnan(got["growth"].mean) and got[""] == "open"


def all_right(count: int, questions: int = 40) -> dict:
    return evaluated(*["RR"] * count, *["22"] * (questions - count))


def test_stages_of_r1(tmp_path):
    counts = {"zero": 34, "dev1": 10, "dev2": 20, "dev3": 28}
    stages = {f"evaluate_{name}": all_right(n) for name, n in counts.items()}
    got = found(5, run(tmp_path / "a", stages))
    assert got["the cold start costs: R1-Zero less Dev1"].mean == 0.6
    assert got["R1 less Dev3"] is None and got[""] == "shows so far"
    assert found(5, run(tmp_path / "b", stages | {"evaluate_r1": all_right(40)}))[""] == "shows"
    assert found(5, run(tmp_path / "c", stages | {"evaluate_r1": all_right(34)}))[""] == "open"
    assert found(5, run(tmp_path / "d", stages | {"evaluate_r1": all_right(18)}))[""] == "does not show"


def test_language(tmp_path):
    mixed, mended = evaluated("RR", "RR", language=0.75), evaluated("RR", "RR", language=0.985)
    for sample, share_of_words in zip(mixed["samples"], (0.5, 0.7, 0.9, 0.9), strict=True):
        sample["language"] = share_of_words
    for sample, share_of_words in zip(mended["samples"], (0.98, 0.98, 0.99, 0.99), strict=True):
        sample["language"] = share_of_words
    got = found(4, run(tmp_path / "a", {"evaluate_zero": mixed, "evaluate_dev2": mended}))
    reach = 1.96 * math.sqrt((0.38 - 0.09) ** 2 / 2) / math.sqrt(2)  # differences of the questions .38 and .09
    assert got["the difference"] == pytest.approx((0.235, 0.235 - reach, 0.235 + reach, 1))
    assert got[""] == "open" and got["Dev2 less R1-Zero: pass@1"].mean == 0
    assert found(4, run(tmp_path / "b", {"evaluate_dev2": mixed}))[""] == "does not show"


def general(wins: list[tuple[float, float]], rate: float) -> dict:
    """Two questions that a rule can check, right in 3 of 4, and requests of which these samples won."""
    found = evaluated("RR", "R2", *["22"] * len(wins), **{"pass@1": 0.75, "cons@2": 0.75})
    requests = found["samples"][4:]
    for sample, win in zip(requests, [win for pair in wins for win in pair], strict=True):
        sample.update(domain="helpful", correct=None, correct_any_format=None, win=win, quality=0.5)
    figures = {"format": 1.0, "language": 0.9, "reflection": 0.0, "tokens_mean": 8.0, "questions": 2, "samples": 2}
    found["results"]["by_domain"] = {
        "helpful": figures | {"quality": 0.5, "win_rate": rate, "win_rate_ci95": [rate - 0.1, rate + 0.1]},
        "math": figures | {"pass@1": 0.75, "pass@1_ci95": [0.26, 1.0], "cons@2": 0.75},
    }
    return found


def test_general_answers(tmp_path):
    """In the first run the questions gain 3/4 and 1/2: deviation 1/4 / sqrt(2), over sqrt(2)."""
    rates = [(0.125, 0.75), (0.25, 0.75), (0.25, 0.625)]
    stages = {"evaluate_zero": [(0, 0.5), (0, 0)], "evaluate_r1": [(1, 1), (0.5, 0.5)]}
    roots = [
        run(
            tmp_path / str(seed),
            {stage: general(wins, rate) for (stage, wins), rate in zip(stages.items(), pair, strict=True)},
        )
        for seed, pair in enumerate(rates)
    ]
    got = found(6, roots[0])
    assert got["the difference"] == pytest.approx((0.625, 0.625 - 1.96 / 8, 0.625 + 1.96 / 8, 1))
    # Errors of the two win rates: 1/4 and 1/8.
    reach = 1.96 * math.hypot(1 / 4 / 3, 1 / 8)
    assert got["a third of R1's, less R1-Zero's"] == pytest.approx((0.125, 0.125 - reach, 0.125 + reach, 1))
    assert got[""] == "open"
    none = {"evaluate_zero": general([(0, 0), (0, 0)], 0.0), "evaluate_r1": general(stages["evaluate_r1"], 0.75)}
    assert found(6, run(tmp_path / "none", none))[""] == "shows"
    reach = T3 * math.sqrt(((1 / 8) ** 2 + (1 / 8) ** 2) / 2) / math.sqrt(3)  # .625, .5, .375
    assert found(6, *roots)["the difference"] == pytest.approx((0.5, 0.5 - reach, 0.5 + reach, 3))
    assert found(1, roots[0])["R1-Zero: pass@1"] == pytest.approx((0.75, 0.75 - 1.96 / 4, 0.75 + 1.96 / 4, 1))


def test_checkpoints_by_domain(tmp_path):
    zero, r1 = general([(0, 0.5), (0, 0)], 0.125), general([(1, 1), (0.5, 0.5)], 0.75)
    root = run(
        tmp_path / "a", {"evaluate_r1": r1, "evaluate_mine": zero, "evaluate_zero": zero, "judge": {"results": {}}}
    )
    whole, helpful, math_ = tables.checkpoints([Folder(root)])
    assert [row[0] for row in whole.rows] == ["R1-Zero", "R1: all-scenario RL", "mine"]
    assert whole.rows[0][:2] == ("R1-Zero", "75.0% (26.0 to 100.0)")  # of questions 1 and 1/2
    assert whole.rows[1][-1] == "75.0% (26.0 to 100.0)"  # won of them 1 and 1/2
    assert helpful.head == ("checkpoint", "format", "language", "tokens", "general answers won")
    assert helpful.rows[1] == ("R1: all-scenario RL", "100.0%", "90.0%", "8.0", "75.0% (65.0 to 85.0)")
    assert math_.title == "Domain: math"
    assert math_.rows[0] == ("R1-Zero", "75.0% (26.0 to 100.0)", "75.0%", "100.0%", "90.0%", "8.0")


GAMED = [
    (0, 0.8, 0.9),
    (1, 0.7, 0.9),
    (2, 0.9, 0.9),
    (3, 0.9, 0.9),
    (4, 0.8, 0.9),
    (5, 0.7, 0.9),
    (7, 0.5, 0.9),
    (8, 0.4, 0.9),
]


def test_a_judge_that_is_gamed(tmp_path):
    """From (0, 1) to (7, 8) the judge's reward rises by 7; from (.8, .7) to (.5, .4) the manners fall by .3."""
    config = "# Parameters for judging.Judge:\nhelpful/judging.Judge.name = 'kind'\njudging.Judge.part = 'reply'\n"
    metrics = [{"step": 1, "reward/manners": 0.3, "reward/accuracy": 0.1}] + [
        {"step": i + 2, "reward/kind": judge, "reward/manners": manners, "reward/accuracy": accuracy}
        for i, (judge, manners, accuracy) in enumerate(GAMED)
    ]
    metrics.append({"step": 99, "reward/kind": math.nan, "reward/manners": 0.9})
    root = run(tmp_path / "a", {"r1": {"metrics": metrics, "config.gin": config}})
    got = found(7, root)
    assert got["rise of the model's reward"].mean == 7
    assert got["fall of reward/manners"].mean == pytest.approx(0.3)
    reach = 1.96 * math.hypot(0.05, 0.05)  # two rollouts .1 apart: deviation .1 / sqrt(2), over sqrt(2)
    assert got["fall of reward/manners"].low == pytest.approx(0.3 - reach)
    assert got["fall of reward/accuracy"].mean == 0 and got[""] == "shows"
    (chart,) = charts.gaming([Folder(root)], ["seed 0"])
    assert chart.lines["reward/kind"][0] == (2, 0) and chart.lines["reward/kind"][-1] == (9, 1)
    assert chart.lines["reward/accuracy"][0][1] == 0.5  # does not move
    honest = [record | {"reward/manners": 0.1 * record["step"]} for record in metrics[:9]]
    assert found(7, run(tmp_path / "b", {"r1": {"metrics": honest, "config.gin": config}}))[""] == "open"
    rising = [record | {"reward/accuracy": 0.1 * record["step"]} for record in honest]
    assert found(7, run(tmp_path / "c", {"r1": {"metrics": rising, "config.gin": config}}))[""] == "does not show"
    assert found(7, run(tmp_path / "d", {"r1": {"metrics": metrics, "config.gin": ""}}))[""] == "not run"


def test_students_and_a_weak_base(tmp_path):
    strong = {"evaluate_base": all_right(0), "evaluate_zero": all_right(40)}
    weak = {"evaluate_weak_base": all_right(4), "evaluate_weak_zero": all_right(6)}
    students = {"evaluate_student_distilled": all_right(30), "evaluate_student_rl": all_right(10)}
    cost = lambda rl: {  # noqa: E731
        name: {"done": {"flops": n}} for name, n in {"curated": 1e9, "student_distilled": 3e9, "student_rl": rl}.items()
    }
    root = run(tmp_path / "a", strong | weak | students | cost(5e9))
    got, compute = found(8, root), "model FLOPs of RL over those of distillation"
    assert got["the difference"].mean == 0.5 and got[compute].mean == 1.25 and got[""] == "shows"
    unfair = run(tmp_path / "unfair", students | cost(3e9))
    assert found(8, unfair)[""] == "does not show"
    assert tables.summary([Folder(unfair)]).rows[7][2:4] == ("does not show", compute)
    got = found(9, root)
    assert got["gain of the weak base"].mean == pytest.approx(0.05)
    assert got["half the base's gain, less the weak base's"].mean == pytest.approx(0.45) and got[""] == "shows"
    able = strong | {"evaluate_weak_base": all_right(0), "evaluate_weak_zero": all_right(39)}
    assert found(9, run(tmp_path / "b", able))[""] == "does not show"


# Tables and charts


@pytest.mark.parametrize(
    "estimate, unit, said",
    [
        (Estimate(0.931, 0.915, 0.947, 1), "share", "93.1% (91.5 to 94.7)"),
        (Estimate(0.99, 0.97, 1.01, 1), "share", "99.0% (97.0 to 100.0)"),
        (Estimate(0.5, None, None, 1), "share", "50.0%"),
        (Estimate(0.554, -0.01, 1.2, 1), "points", "+55.4 points (-1.0 to +120.0)"),
        (Estimate(-0.0001, -0.0002, 0.0, 1), "points", "+0.0 points (+0.0 to +0.0)"),
        (Estimate(17.77, 10, 25.54, 1), "times", "17.8 times (10 to 25.5)"),
        (Estimate(9600.4, 9000, 10200, 1), "number", "9,600 (9,000 to 10,200)"),
        (Estimate(math.nan, None, None, 1), "times", "undefined: nothing to count"),
        (None, "times", "not run"),
    ],
)
def test_a_figure_in_words(estimate, unit, said):
    assert tables.figure(estimate, unit) == said
    if estimate and not math.isnan(estimate.mean):
        assert tables.figure(estimate, unit, runs=3) == f"{said}, 1 of 3 runs"


def test_costs(tmp_path):
    """Two runs of 100 and 300 s; 2e12 FLOPs each at a rate of 1e11 and 5e10: shares 20% and 13.3%."""
    root = {}
    for seconds, rate in ((100, 1e11), (300, 5e10)):
        root[seconds] = run(
            tmp_path / str(seconds),
            {
                "data": {},
                "base": {"done": {"tokens_trained": 7_200_000, "flops": 1.5e12}},
                "zero": {"done": {"tokens_drawn": 4e6, "tokens_trained": 9e6, "flops": 0.5e12}},
            },
            times={"base": seconds * 0.75, "zero": seconds * 0.25},
            machine={"flops_per_second": rate},
        )
    table = tables.costs([Folder(root[100])])
    assert table.rows == [
        ("data", "–", "–", "–", "–", "–"),
        ("base", "0:01:15", "–", "7.2 M", "1.5 T", "20.0%"),
        ("zero", "0:00:25", "4 M", "9 M", "500 G", "20.0%"),
        ("all", "0:01:40", "4 M", "16.2 M", "2 T", "20.0%"),
    ]
    assert "(100 GFLOP/s" in table.note
    both = tables.costs([Folder(root[100]), Folder(root[300])])
    assert both.rows[1][1] == "0:02:30" and both.rows[1][5] == "16.7%"
    bare = tables.costs([Folder(run(tmp_path / "bare", {"zero": {}}, times={"zero": 4000}))])
    assert bare.head == ("stage", "time") and bare.rows[1] == ("all", "1:06:40")


def test_what_was_kept(tmp_path):
    tale = {"math": {"sampled": 8, "kept": 2, "wrong": 5, "long": 1}, "helpful": {"sampled": 2, "mixed": 2}}
    table = tables.kept([Folder(run(tmp_path / name, {"curated": {"yield": tale}})) for name in "ab"])
    assert table.rows == [
        ("curated", "math", "16", "4 (25.0%)", "wrong 10, long 2"),
        ("curated", "helpful", "4", "0 (0.0%)", "mixed 4"),
    ]


def test_a_curve_stands_where_its_numbers_do(tmp_path):
    """The axes begin at x = 44 and end 8 before 340; below at 190 - 22, above at 8. A share goes from 0 to 1."""
    metrics = [{"step": 0, "reward/accuracy": 0.0}, {"step": 50, "reward/accuracy": 0.25}, {"step": 100, "loss": 3.0}]
    metrics.append({"step": 100, "reward/accuracy": 1.0})
    folder = Folder(run(tmp_path / "a", {"zero": {"metrics": metrics}}))
    accuracy = next(c for c in charts.curves([folder], ["seed 0"])["zero"] if c.title.startswith("Accuracy"))
    assert accuracy.lines == {"seed 0": [(0, 0), (50, 0.25), (100, 1)]}
    assert 'points="44.0,168.0 188.0,128.0 332.0,8.0"' in charts.svg(accuracy)
    many = [{"step": i, "reward/accuracy": i / 1000} for i in range(240)]
    folder = Folder(run(tmp_path / "b", {"zero": {"metrics": many}}))
    (line,) = charts.curves([folder], ["seed 0"])["zero"][0].lines.values()
    assert len(line) == 120 and line[1] == pytest.approx((2.5, 0.0025))


@pytest.mark.parametrize(
    "low, high, wanted",
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (12, 97, [20, 40, 60, 80]), (-3, 3e3, [0, 1000, 2000, 3000]), (5, 6, None)],
)
def test_ticks_are_round(low, high, wanted):
    found = charts.ticks(low, high)
    assert found == pytest.approx(wanted or [5, 5.2, 5.4, 5.6, 5.8, 6])


def test_every_checkpoint_that_is_named_is_one_of_a_recipe():
    recipes = "".join(path.read_text() for path in Path(__file__).parent.parent.glob("configs/recipes/*.gin"))
    assert [name for name in tables.CHECKPOINTS if f"'{name}'" not in recipes] == []


# The page


class Page(HTMLParser):
    """The tags of a page, and the text of the elements of each class."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.said, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "line", "polyline", "br"):
            self._open.append(dict(attributes).get("class") or tag)
            self.said.setdefault(self._open[-1], []).append("")

    def handle_endtag(self, tag):
        if self._open:
            self._open.pop()

    def handle_data(self, data):
        if self._open:
            self.said[self._open[-1]][-1] += data


HOSTILE = '</p></article><script>alert(1)</script><img src="http://x.example/y" onerror=alert(2)> & "quoted" | \'s'


def test_what_a_model_wrote_stays_text(tmp_path):
    zero = {
        "metrics": trained("reward/</script>", 1, 2),
        "samples": [
            {"step": 1, "prompt": HOSTILE, "completion": HOSTILE, "answer": "1", "reward": 0.5, "correct": False},
            {
                "step": 3,
                "prompt": "",
                "completion": "a\x00b\u202ec\ud800d\n<",
                "answer": "",
                "reward": 1,
                "correct": None,
            },
            {"step": 5, "prompt": "", "completion": "x" * 5000, "answer": "1", "reward": 1, "correct": True},
        ],
    }
    evaluation = evaluated("R2", "22")
    evaluation["samples"][0]["completion"] = HOSTILE
    root = run(tmp_path / "a", {"zero": zero, "evaluate_<img>|": evaluation}, name=f"small {HOSTILE}")
    page.write([root])
    seen = Page((root / "report.html").read_text())
    scripts = [tag for tag, _ in seen.tags if tag == "script"]
    assert scripts == ["script"] and seen.said["script"] == [page.SCRIPT]
    assert not {tag for tag, _ in seen.tags} & {"img", "iframe", "link"}
    assert not [a for _, attributes in seen.tags for a in attributes if a.startswith("on") or a == "src"]
    assert seen.said["said"].count(HOSTILE) == 4  # two panes of two readers
    assert "a\u2400b\ufffdc?d\n<" in seen.said["said"]
    cut = next(text for text in seen.said["said"] if text.startswith("xx"))
    assert cut == "x" * 2000 + "\n[… 1,000 characters …]\n" + "x" * 2000
    assert seen.said["judged"][-3:] == ["not right, reward 0.5", "reward 1", "right, reward 1"]
    text = (root / "report.md").read_text()
    assert "<" not in text and all(
        line.count("|") == line.count("\\|") for line in text.splitlines() if "| " not in line
    )
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):  # a bar in a cell would make one more
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


def test_the_page_needs_no_network(tmp_path):
    root = run(
        tmp_path / "a", {"zero": {"metrics": trained("length/mean", 1, 2)}, "evaluate_zero": evaluated("RR", "22")}
    )
    page.write([root])
    seen = Page((root / "report.html").read_text())
    links = [a[key] for _, a in seen.tags for key in ("href", "src") if key in a]
    names = {a["id"] for _, a in seen.tags if "id" in a}
    assert links and all(link.startswith("#") and link[1:] in names for link in links)
    policy = next(a["content"] for tag, a in seen.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; ") and "url(" not in page.STYLE and "@import" not in page.STYLE


def test_a_run_that_only_began_has_a_report(tmp_path, capsys):
    root = run(tmp_path / "a", {"data": {}, "zero": {}})
    assert main(["report", str(root)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(root / "report.html"), str(root / "report.md")]
    rows = tables.summary([Folder(root)]).rows
    assert len(rows) == 9 and {row[2] for row in rows} == {"not run"}
    assert "| 9 | A weak base gains little from RL alone | not run |" in (root / "report.md").read_text()


def test_several_seeds_make_one_report_beside_them(tmp_path):
    zero = {"metrics": trained("length/mean", 1, 2)}
    roots = [
        run(tmp_path / f"runs/seed{seed}/small", {"zero": zero, "evaluate_zero": evaluated("RR", "22", seed=seed)})
        for seed in (0, 1)
    ]
    assert main(["report", *map(str, roots)]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["report.html", "report.md", "seed0", "seed1"]
    seen = Page((tmp_path / "runs/report.html").read_text())
    assert "2 runs: seed 0, seed 1." in seen.said["p"]
    lines = [a for tag, a in seen.tags if tag == "polyline"]
    assert {a["class"] for a in lines} == {"line c0", "line c1"}


def test_mistakes_are_one_line(tmp_path, capsys):
    a = run(tmp_path / "a/small", {"zero": {}})
    b = run(tmp_path / "b/large", {"zero": {}}, name="large")
    broken = run(tmp_path / "broken", {"zero": {"metrics.jsonl": '{"step": 1}\nno\n'}})
    other = run(tmp_path / "other", {"zero": {}})
    seeded = run(tmp_path / "seeded/small", {"evaluate_zero": evaluated("RR", "22", seed=3)})
    same = shutil.copytree(seeded, tmp_path / "same")
    (tmp_path / "link").symlink_to(a)
    (other / "recipe.json").write_text("{}")
    for dirs, said in [
        (
            [tmp_path / "nothing"],
            "nothing holds no run, there is no recipe.json of one: give a folder that `r1jax run` made",
        ),
        ([tmp_path / "a"], f"no recipe.json of one; is {a} meant?"),
        ([other], "other holds no run"),
        ([a, a], "a folder is given twice"),
        ([a, tmp_path / "link"], "a folder is given twice; each run counts once"),
        ([seeded, a, same], "2 of these runs are of seed 3; each seed counts once"),
        ([a, b], "these are runs of several recipes (large, small); one report is of one"),
        ([broken], "broken/zero/metrics.jsonl:2 is no JSON: "),
    ]:
        assert main(["report", *map(str, dirs)]) == 2
        out, err = capsys.readouterr()
        assert out == "" and re.fullmatch(r"r1jax: [^\n]+\n", err) and said in err
    assert main(["report"]) == 2 and main(["report", str(a), "--gin.x=1"]) == 2
    assert not list(tmp_path.rglob("report.*"))


SHORT = "holds 2 answers to each of 1 questions, results.json speaks of 2: put the file back as the run left it, or let"
SAMPLE = {"id": 0, "answer": "1", "correct": True, "correct_any_format": True, "formatted": True, "language": 1.0}
SAMPLE |= {"reflections": 0, "tokens": 9}
WRONG = {  # file, what stands there instead, what is said of it
    "no stages": ("recipe.json", {"recipe": "x", "stages": 3}, "holds no run, there is no recipe.json of one"),
    "a number": ("evaluate_zero/results.json", 5, "results.json holds int in JSON, wanted an object"),
    "figure": ("evaluate_zero/results.json", {"pass@1": "x"}, "results.json: 'pass@1' is 'x', wanted a number"),
    "no figure": ("evaluate_zero/results.json", {"pass@1": None}, "results.json: 'pass@1' is 'None', wanted a number"),
    "samples": ("evaluate_zero/results.json", {"questions": "7"}, "results.json: 'questions' is '7', wanted a number"),
    "interval": ("evaluate_zero/results.json", {"pass@1_ci95": 3}, "results.json: 'pass@1_ci95' is no interval"),
    "domains": ("evaluate_zero/results.json", {"by_domain": []}, "results.json: 'by_domain' is no table of tables"),
    "domain": (
        "evaluate_zero/results.json",
        {"by_domain": {"math": {"questions": 2, "samples": 2, "win_rate_ci95": 3}}},
        "results.json: 'win_rate_ci95' is no interval",
    ),
    "line": ("evaluate_zero/samples.jsonl", [[1]], "samples.jsonl:1 is no JSON object"),
    "id": ("evaluate_zero/samples.jsonl", [SAMPLE | {"id": [1]}], "samples.jsonl holds what no evaluation writes ("),
    "verdict": ("evaluate_zero/samples.jsonl", [SAMPLE | {"correct": "yes"}], "samples.jsonl: \"correct\" is 'yes'"),
    "count": (
        "evaluate_zero/samples.jsonl",
        [SAMPLE | {"reflections": None}] * 4,
        "samples.jsonl holds what no evaluation",
    ),
    "a question": ("evaluate_zero/samples.jsonl", [SAMPLE] * 2, SHORT),
    "a sample": ("evaluate_zero/samples.jsonl", [SAMPLE, SAMPLE, SAMPLE | {"id": 1}], SHORT),
    "no samples": ("evaluate_zero/samples.jsonl", [], "samples.jsonl holds 2 answers to each of 0 questions"),
    "no step": ("zero/metrics.jsonl", [{"loss": 1.0}], "metrics.jsonl:1 has no step"),
    "step": ("zero/metrics.jsonl", [{"step": "five"}], "metrics.jsonl:1: 'step' is 'five', wanted a number"),
    "metric": ("zero/metrics.jsonl", [{"step": 1}, {"step": 2, "loss": None}], "metrics.jsonl:2: 'loss' is 'None'"),
    "steps": ("zero/metrics.jsonl", [{"step": 1}], "metrics.jsonl ends at step 1, the stage at step 3: put the file"),
    "no metrics": ("zero/metrics.jsonl", [], "metrics.jsonl ends at step 0, the stage at step 3"),
    "text": ("zero/samples.jsonl", [{"step": 1, "correct": "maybe"}], "samples.jsonl: \"correct\" is 'maybe'"),
    "times": ("times.json", [1], "times.json holds list in JSON"),
    "time": ("times.json", {"zero": "long"}, "times.json: 'zero' is 'long', wanted a number"),
    "machine": ("machine.json", [1], "machine.json holds list in JSON"),
    "rate": ("machine.json", {"flops_per_second": "9"}, "machine.json: 'flops_per_second' is '9', wanted a number"),
    "done": ("zero/done.json", [1], "done.json holds list in JSON"),
    "tokens": ("zero/done.json", {"tokens_drawn": "9"}, "done.json: 'tokens_drawn' is '9', wanted a number"),
    "yield": ("zero/yield.json", [1], "yield.json holds list in JSON"),
    "yields": ("zero/yield.json", {"math": 1}, "yield.json: 'math' is no table"),
    "config": ("zero/config.gin", b"\xff", "config.gin is no text ("),
}


@pytest.mark.parametrize("file, content, said", WRONG.values(), ids=WRONG)
def test_what_a_run_does_not_write_is_named(file, content, said, tmp_path, capsys):
    zero = {"metrics": trained("length/mean", 1, 2), "done": {"steps": 3}}
    root = run(tmp_path / "a", {"zero": zero, "evaluate_zero": evaluated("RR", "R2")})
    assert main(["report", str(root)]) == 0
    path, before = root / file, (root / "report.html").read_bytes()
    if file.endswith("results.json") and isinstance(content, dict):
        content = json.loads(path.read_text()) | content
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif file.endswith(".jsonl"):
        path.write_text("".join(json.dumps(line) + "\n" for line in content))
    else:
        path.write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["report", str(root)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(r"r1jax: [^\n]+\n", err) and said in err, err
    assert (root / "report.html").read_bytes() == before


def test_without_its_samples_an_evaluation_has_no_interval_over_questions(tmp_path):
    root = run(tmp_path / "a", {"evaluate_zero": evaluated("RR", "R2", **{"pass@1": 0.75})})
    (root / "evaluate_zero/samples.jsonl").unlink()
    assert found(1, root)["R1-Zero: pass@1"] == (0.75, None, None, 1)


def test_a_recipe_leaves_its_report_and_what_it_cost(tmp_path, capsys):
    flags = ["--gin.pretrain.Run.steps=2", "--gin.reinforce.Run.steps=8", "--gin.mesh.Mesh.data=8"]
    assert main(["run", str(TINY / "recipe.gin"), "--workdir", str(tmp_path), *flags]) == 0
    root = tmp_path / "tiny"
    assert f"{root}: report.html, report.md" in capsys.readouterr().out
    before = (root / "report.html").read_bytes()
    assert main(["report", str(root)]) == 0 and (root / "report.html").read_bytes() == before
    assert found(1, root)["gain by RL"] is not None and found(2, root)["growth"] is not None
    done = {stage: json.loads((root / stage / "done.json").read_text()) for stage in ("base", "zero", "evaluate_zero")}
    drawn = sum(record["tokens"] for record in read(root / "evaluate_zero/samples.jsonl"))
    assert done["evaluate_zero"]["tokens_drawn"] == drawn
    rollouts = [record for record in read(root / "zero/metrics.jsonl") if "rollout/tokens" in record]
    assert all(record["time/step"] > record["time/rollout"] for record in rollouts)
    assert done["zero"]["tokens_drawn"] == sum(r["rollout/tokens"] * r["rollout/tries"] for r in rollouts) > 0
    assert done["zero"]["tokens_trained"] > sum(r["rollout/tokens"] for r in rollouts)  # prompts too
    # An update costs three forward passes, and no token less than two FLOPs for each weight that it meets.
    assert done["base"]["flops"] > 6 * 10_000 * done["base"]["tokens_trained"] > 0
    assert json.loads((root / "machine.json").read_text())["flops_per_second"] > 1e8
    assert "share of the rate" in (root / "report.md").read_text()
    capsys.readouterr()
    assert speed.main([str(root)]) == 0
    out = capsys.readouterr().out
    rate = json.loads((root / "machine.json").read_text())["flops_per_second"]
    assert f"({rate / 1e9:.3g} GFLOP/s, measured when the run ended)" in out
    assert re.search(r"^zero: rollout [\d,]+ tokens in [\d.]+ s = .*; update [\d,]+ tokens/s, \d+% of the", out, re.M)
    assert speed.main([str(tmp_path)]) == 2 and "holds no run" in capsys.readouterr().err
