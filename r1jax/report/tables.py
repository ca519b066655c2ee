"""The tables of the report: findings, checkpoints, what the stages cost and what was kept. Cells are plain text."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from r1jax.report.estimate import Estimate, Value, over
from r1jax.report.findings import FINDINGS, Finding, Unit
from r1jax.report.folder import Folder
from r1jax.report.quantities import level

CHECKPOINTS = {  # in the paper's order; an evaluation of another name comes after these
    "evaluate_base": "base",
    "evaluate_zero": "R1-Zero",
    "evaluate_dev1": "Dev1: cold start",
    "evaluate_dev2": "Dev2: reasoning RL",
    "evaluate_dev3": "Dev3: second fine-tuning",
    "evaluate_r1": "R1: all-scenario RL",
    "evaluate_student_distilled": "student by distillation",
    "evaluate_student_rl": "student by RL",
    "evaluate_weak_base": "weak base",
    "evaluate_weak_zero": "weak base after RL",
}
HEAD = ("checkpoint", "pass@1", "majority vote", "format", "language", "tokens", "general answers won")
BETWEEN = "In brackets the 95% interval: of one run over its questions, else over the runs (Student's t)."
NOTHING = "–"


class Table(NamedTuple):
    """rows: as many cells each as the head has. note: what stands below."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


def summary(folders: Sequence[Folder]) -> Table:
    """The verdicts, each with the number that decides it: the first that fails or is open, else the first of all."""
    rows, fate = [], {"does not show": "fails", "open": "open"}
    for number, finding in enumerate(FINDINGS, 1):
        found = finding.estimates(folders)
        verdict = finding.verdict(found)
        deciding = [pair for pair in zip(finding.lines, found, strict=True) if pair[0].wanted]
        decisive = (pair for pair in deciding if pair[0].verdict(pair[1]) == fate.get(verdict))
        line, estimate = next(decisive, deciding[0])
        here = figure(estimate, line.unit, len(folders))
        rows.append((str(number), finding.claim, verdict, line.what, line.paper, here))
    return Table("In short", ("", "finding", "", "a number of it", "paper", "here"), rows)


def lines(number: int, finding: Finding, folders: Sequence[Folder]) -> Table:
    """One finding, number by number."""
    found = finding.estimates(folders)
    rows = [
        (line.what, line.paper or NOTHING, figure(estimate, line.unit, len(folders)), line.verdict(estimate))
        for line, estimate in zip(finding.lines, found, strict=True)
    ]
    title = f"{number}. {finding.claim}: {finding.verdict(found)}"
    return Table(title, ("", "paper", "here", "decides"), rows, finding.remark)


def checkpoints(folders: Sequence[Folder]) -> list[Table]:
    """Over all questions that a rule can check, then by domain, then pass@1 by difficulty."""
    names = evaluations(folders)

    def share(stage: str, key: str) -> str:
        return _cell(over([level(stage, key)(folder) for folder in folders]), "share", len(folders))

    rows = []
    for stage, name in names.items():
        found = [folder.evaluations[stage].results for folder in folders if stage in folder.evaluations]
        rows.append((name, share(stage, "pass@1"), *_means(folders, stage, found), share(stage, "win_rate")))
    tables = [Table("All questions that a rule can check", HEAD, rows, BETWEEN)]
    for domain in dict.fromkeys(d for f in folders for e in f.evaluations.values() for d in e.domains):
        rows = [(name, *_domain(folders, stage, domain)) for stage, name in names.items()]
        tables.append(Table(f"Domain: {domain}", HEAD, rows))
    groups = dict.fromkeys(
        g for f in folders for e in f.evaluations.values() for g in e.results.get("by_difficulty", ())
    )
    if len(groups) > 1:
        ordered = sorted(groups, key=lambda group: (len(group), group))
        rows = []
        for stage, name in names.items():
            found = [f.evaluations[stage].results.get("by_difficulty", {}) for f in folders if stage in f.evaluations]
            rows.append((name, *(_mean([table.get(g, {}) for table in found], "pass@1", "{:.1%}") for g in ordered)))
        tables.append(Table("pass@1 by difficulty", ("checkpoint", *ordered), rows))
    return [_without_empty(table) for table in tables if table.rows]


def costs(folders: Sequence[Folder]) -> Table:
    """Time, tokens and model FLOPs of each stage, means over the runs."""
    stages = list(dict.fromkeys(stage for folder in folders for stage in folder.stages))
    cells: list[list[float | None]] = []
    for stage in stages:
        done = [folder.done(stage) or {} for folder in folders]
        cells.append(
            [
                _average([folder.seconds.get(stage) for folder in folders]),
                *(_average([d.get(key) for d in done]) for key in ("tokens_drawn", "tokens_trained", "flops")),
                _average([_share(f, f.seconds.get(stage), d.get("flops")) for f, d in zip(folders, done, strict=True)]),
            ]
        )
    total: list[float | None] = [
        sum(found) if (found := [row[i] for row in cells if row[i] is not None]) else None for i in range(4)
    ]
    rates = [folder.rate for folder in folders if folder.rate]
    total.append(total[3] / total[0] / fmean(rates) if rates and total[0] and total[3] else None)
    rows = [
        (
            stage,
            NOTHING if cost[0] is None else _clock(cost[0]),
            *(NOTHING if n is None else _short(n) for n in cost[1:4]),
            NOTHING if cost[4] is None else f"{cost[4]:.1%}",
        )
        for stage, cost in zip([*stages, "all"], [*cells, total], strict=True)
    ]
    head = ("stage", "time", "tokens drawn", "tokens trained on", "model FLOPs", "share of the rate")
    rate = f"{_short(fmean(rates))}FLOP/s, measured when the run ended" if rates else "not measured"
    note = (
        ("Means over the runs. " if len(folders) > 1 else "")
        + "Tokens are those of responses (drawn) and of prompts and responses (trained on, as often as they are read), "
        "without padding. Model FLOPs leave out recomputation, padding and the judges. The share is of the machine's "
        f"rate of matrix products ({rate}), over all of a stage's time: compiling, scoring and saving as well. The "
        "paper, in H800 hours: R1-Zero 101,000, data 5,000, R1 41,000."
    )
    return _without_empty(Table("What each stage cost", head, rows, note))


def kept(folders: Sequence[Folder]) -> Table:
    """What rejection sampling kept, by stage and domain, added up over the runs."""
    rows = []
    for stage in dict.fromkeys(stage for folder in folders for stage in folder.stages):
        found = [table for folder in folders if (table := folder.yielded(stage))]
        for domain in dict.fromkeys(domain for table in found for domain in table):
            counts: dict[str, int] = {}
            for table in found:
                for reason, count in table.get(domain, {}).items():
                    counts[reason] = counts.get(reason, 0) + count
            sampled, stayed = counts.pop("sampled", 0), counts.pop("kept", 0)
            gone = ", ".join(f"{reason} {n:,}" for reason, n in sorted(counts.items(), key=lambda item: -item[1]))
            rows.append((stage, domain, f"{sampled:,}", f"{stayed:,} ({stayed / max(sampled, 1):.1%})", gone))
    return Table("What rejection sampling kept", ("stage", "domain", "sampled", "kept", "gone, and why"), rows)


def figure(estimate: Estimate | None, unit: Unit, runs: int = 1) -> str:
    """A number with its interval, '93.1% (91.5 to 94.7)'; runs: of how many the report is."""
    if estimate is None:
        return "not run"
    mean, low, high, found = estimate
    if math.isnan(mean):
        return "undefined: nothing to count"
    if unit == "share":
        said = f"{mean:.1%}"
        between = None if low is None or high is None else (f"{100 * max(low, 0):.1f}", f"{100 * min(high, 1):.1f}")
    elif unit == "points":
        said = f"{_points(mean)} points"
        between = None if low is None or high is None else (_points(low), _points(high))
    else:
        said = _plain(mean) + (" times" if unit == "times" else "")
        between = None if low is None or high is None else (_plain(low), _plain(high))
    said += f" ({between[0]} to {between[1]})" if between else ""
    return said + (f", {found} of {runs} runs" if found < runs else "")


def evaluations(folders: Sequence[Folder]) -> dict[str, str]:
    """The names of the checkpoints by the stages that evaluated them, in the paper's order."""
    found = dict.fromkeys(stage for folder in folders for stage in folder.evaluations)
    known = {stage: name for stage, name in CHECKPOINTS.items() if stage in found}
    return known | {stage: stage.removeprefix("evaluate_") for stage in found if stage not in known}


def _domain(folders: Sequence[Folder], stage: str, domain: str) -> tuple[str, ...]:
    """The cells of one domain."""
    evaluations = [folder.evaluations[stage] for folder in folders if stage in folder.evaluations]
    found = [figures for evaluation in evaluations if (figures := evaluation.domains.get(domain))]
    runs = len(folders)
    return _between(found, "pass@1", runs), *_means(folders, stage, found), _between(found, "win_rate", runs)


def _means(folders: Sequence[Folder], stage: str, found: Sequence[dict]) -> tuple[str, ...]:
    """The cells between, without intervals."""
    votes = next(folder.evaluations[stage].votes for folder in folders if stage in folder.evaluations)
    shares = (_mean(found, key, "{:.1%}") for key in (votes, "format", "language"))
    return *shares, _mean(found, "tokens_mean", "{:,.1f}")


def _without_empty(table: Table) -> Table:
    """Without the columns that say nothing."""
    kept = [i for i in range(len(table.head)) if any(row[i] != NOTHING for row in table.rows)]
    rows = [tuple(row[i] for i in kept) for row in table.rows]
    return table._replace(head=tuple(table.head[i] for i in kept), rows=rows)


def _mean(found: Sequence[dict], key: str, form: str) -> str:
    values = [figures[key] for figures in found if figures.get(key) is not None]
    return form.format(fmean(values)) if values else NOTHING


def _between(found: Sequence[dict], key: str, runs: int) -> str:
    """With its interval: over runs, or of one run the one that its evaluation gave."""
    said = [figures for figures in found if figures.get(key) is not None]
    if len(said) == 1:
        estimate = Estimate(said[0][key], *said[0].get(f"{key}_ci95", (None, None)), 1)
        return _cell(estimate, "share", runs)
    return _cell(over([Value(figures[key]) for figures in said]), "share", runs)


def _cell(estimate: Estimate | None, unit: Unit, runs: int) -> str:
    return NOTHING if estimate is None else figure(estimate, unit, runs)


def _share(folder: Folder, seconds: float | None, flops: float | None) -> float | None:
    return flops / seconds / folder.rate if folder.rate and seconds and flops else None


def _average(numbers: Sequence[float | None]) -> float | None:
    found = [number for number in numbers if number is not None]
    return fmean(found) if found else None


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f}"  # of -0.0 the sum is 0.0


def _plain(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def _short(number: float) -> str:
    """Three digits and a letter: 12.3 M."""
    for letter in ("", "K", "M", "G", "T", "P", "E", "Z"):
        if abs(number) < 999.5:
            return f"{number:.3g} {letter}".rstrip()
        number /= 1000
    return f"{number:.3g} Y"
