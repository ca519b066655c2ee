"""A run's folder as the report reads it: its stages and what they left. What is absent is None or empty.

What a stage wrote is checked where it is read, so that the rest of the report meets numbers where it wants some; a file
that was cut short or changed is a UserError that names it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from etils import epath

from r1jax.base import metrics
from r1jax.base.fields import UserError, require
from r1jax.base.files import read_json
from r1jax.reward.statistics import consensus

HELPFUL = "helpful"  # the domain whose replies the held-out judge compares
REMEDY = "put the file back as the run left it, or let the stage run again"
COUNTED = ("steps", "tokens_drawn", "tokens_trained", "flops")  # what done.json counts, where it does
SHOWN = 6  # questions whose first sample the reader shows
FIELDS = {  # of a sample, by what its mean is called in results.json
    "pass@1": "correct",
    "pass@1_any_format": "correct_any_format",
    "format": "formatted",
    "language": "language",
    "reflection": "reflections",
    "tokens_mean": "tokens",
}
Counts = dict[int, tuple[float, int]]  # by question id: a sum over samples, and over how many


class Vote(NamedTuple):
    """What `consensus` asks of a grade."""

    answer: str | None
    correct: bool


@dataclass(frozen=True)
class Evaluation:
    """One evaluation. results: what results.json says, at its top of the questions that can be checked. counts: by the
    name of a figure there, the sums over the samples of each question; `reflective`: the right ones among the checked
    that hold a reflective word. shown: the first samples of a few questions, spread over all."""

    results: dict[str, Any]
    counts: dict[str, Counts]
    shown: list[dict]

    @property
    def votes(self) -> str:
        """What its majority vote is called."""
        return f"cons@{self.results['samples']}"

    @property
    def domains(self) -> dict[str, dict]:
        """Figures by domain; empty where there is one domain only."""
        return self.results.get("by_domain", {})


class Folder:
    """One run. Files are read once, when they are first wanted."""

    def __init__(self, root: epath.PathLike):
        self.root = epath.Path(root)
        recipe = self._json("recipe.json") or {}
        below = sorted(self.root.glob("*/recipe.json")) if self.root.is_dir() else []
        meant = f"; is {below[0].parent} meant?" if below else ": give a folder that `r1jax run` made, runs/<recipe>"
        is_run = isinstance(recipe.get("recipe"), str) and isinstance(recipe.get("stages"), dict)
        require(is_run, f"{self.root} holds no run, there is no recipe.json of one{meant}")
        self.recipe: str = recipe["recipe"]
        self.stages: list[str] = list(recipe["stages"])

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """Those that are complete, by stage."""
        found = {stage: self._json(f"{stage}/results.json") for stage in self.stages}
        return {
            stage: self._evaluation(stage, results)
            for stage, results in found.items()
            if results is not None and "samples" in results
        }

    def _evaluation(self, stage: str, results: dict) -> Evaluation:
        path = self.root / stage / "samples.jsonl"
        _check_figures(self.root / stage / "results.json", results)
        if not path.exists():
            return _evaluation(results, {})
        questions: dict[int, list[dict]] = {}
        try:
            for record in self.records(stage, "samples"):
                if record.keys() >= {"id", "answer", *FIELDS.values()}:
                    _check_verdict(path, record)
                    questions.setdefault(record["id"], []).append(record)
            evaluation = _evaluation(results, questions)
        except (TypeError, AttributeError, KeyError) as error:
            raise UserError(f"{path} holds what no evaluation writes ({error}): {REMEDY}") from error
        asked = sum(table["questions"] for table in evaluation.domains.values()) or results["questions"]
        whole = [samples for samples in questions.values() if len(samples) == results["samples"]]
        require(
            len(questions) == len(whole) == asked,
            f"{path} holds {results['samples']} answers to each of {len(whole)} questions, results.json speaks of "
            f"{asked}: {REMEDY}",
        )
        return evaluation

    @cached_property
    def training(self) -> dict[str, list[dict]]:
        """The metrics of the stages that have some."""
        found = {stage: self.records(stage, "metrics") for stage in self.stages}
        for stage, records in found.items():
            path, done = self.root / stage / "metrics.jsonl", (self.done(stage) or {}).get("steps")
            for number, record in enumerate(records, 1):
                require("step" in record, f"{path}:{number} has no step; {REMEDY}")
                _check_numbers(f"{path}:{number}", record, record)
            last = records[-1]["step"] if records else 0
            short = done is not None and last != done and path.exists()
            require(not short, f"{path} ends at step {last}, the stage at step {done}: {REMEDY}")
        return {stage: records for stage, records in found.items() if records}

    @cached_property
    def transcripts(self) -> dict[str, list[dict]]:
        """The sampled responses of the stages that train on them."""
        read = {stage: self.records(stage, "samples") for stage in self.training}
        shown = {stage: [record for record in records if "step" in record] for stage, records in read.items()}
        for stage, records in shown.items():
            for record in records:
                path = self.root / stage / "samples.jsonl"
                _check_numbers(path, record, ("step",))
                _check_verdict(path, record)
        return {stage: records for stage, records in shown.items() if records}

    @cached_property
    def seconds(self) -> dict[str, float]:
        times = self._json("times.json") or {}
        return _check_numbers(self.root / "times.json", times, times)

    @cached_property
    def rate(self) -> float | None:
        """FLOP/s of the machine's matrix products, where they were measured."""
        machine = self._json("machine.json") or {}
        return _check_numbers(self.root / "machine.json", machine, ("flops_per_second",)).get("flops_per_second")

    @property
    def seed(self) -> int | None:
        """The run's seed; None where its evaluations say none or several."""
        seeds = {evaluation.results.get("seed") for evaluation in self.evaluations.values()}
        return seeds.pop() if len(seeds) == 1 else None

    def done(self, stage: str) -> dict[str, Any] | None:
        done = self._json(f"{stage}/done.json")
        return done and _check_numbers(self.root / stage / "done.json", done, COUNTED)

    def yielded(self, stage: str) -> dict[str, dict[str, int]] | None:
        tables, path = self._json(f"{stage}/yield.json"), self.root / stage / "yield.json"
        for domain, table in (tables or {}).items():
            require(isinstance(table, dict), f"{path}: {domain!r} is no table; {REMEDY}")
            _check_numbers(path, table, table)
        return tables

    def config(self, stage: str) -> str:
        path = self.root / stage / "config.gin"
        try:
            return path.read_text() if path.exists() else ""
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is no text ({error}): {REMEDY}") from error

    def records(self, stage: str, name: str) -> list[dict]:
        return metrics.read(self.root / stage / f"{name}.jsonl")

    def _json(self, name: str) -> dict | None:
        path = self.root / name
        return read_json(path, remedy=REMEDY) if path.exists() else None


def _check_numbers(path: epath.PathLike, table: dict, names: Iterable[str]) -> dict:
    """The table. UserError where one of these, as far as they are there, is no number."""
    for name in names:
        value = table.get(name, 0)
        require(isinstance(value, int | float), f"{path}: {name!r} is {str(value)[:40]!r}, wanted a number; {REMEDY}")
    return table


def _check_figures(path: epath.Path, results: dict) -> None:
    """UserError where one of the figures of an evaluation is none."""
    figures = {name: value for name, value in results.items() if name not in ("checkpoint", "split")}
    for name in [name for name in figures if name.startswith("by_")]:
        tables = figures.pop(name)
        whole = isinstance(tables, dict) and all(isinstance(table, dict) for table in tables.values())
        require(whole, f"{path}: {name!r} is no table of tables; {REMEDY}")
        for table in tables.values():
            _check_figures(path, table)
    for name in [name for name in figures if name.endswith("_ci95")]:
        between = figures.pop(name)
        require(isinstance(between, list) and len(between) == 2, f"{path}: {name!r} is no interval; {REMEDY}")
        figures |= {f"{name}[{i}]": value for i, value in enumerate(between)}
    _check_numbers(path, {"questions": None, "samples": None} | figures, {"questions", "samples"} | figures.keys())


def _check_verdict(path: epath.Path, record: dict) -> None:
    """UserError unless a sample is right, wrong or neither."""
    verdict = record.get("correct")
    require(verdict in (True, False, None), f'{path}: "correct" is {str(verdict)[:40]!r}; {REMEDY}')


def _evaluation(results: dict, questions: dict[int, list[dict]]) -> Evaluation:
    """Of the samples by question."""
    shown = [samples[0] for samples in questions.values()]
    evaluation = Evaluation(results, {}, shown[:: max(len(shown) // SHOWN, 1)][:SHOWN])
    counts = evaluation.counts
    counts.update((name, {}) for name in (*FIELDS, "reflective", "win_rate", evaluation.votes))
    checks = any(samples[0]["correct"] is not None for samples in questions.values())
    for id, samples in questions.items():
        if samples[0].get("win") is not None and samples[0].get("domain", HELPFUL) == HELPFUL:
            counts["win_rate"][id] = sum(record["win"] for record in samples), len(samples)
        if samples[0]["correct"] is None and checks:
            continue
        for name, field in FIELDS.items():
            if samples[0][field] is not None:
                counts[name][id] = sum(record[field] for record in samples), len(samples)
        if samples[0]["correct"] is not None:
            right = [record["correct"] for record in samples if record["reflections"] > 0]
            counts["reflective"][id] = sum(right), len(right)
            votes = [Vote(record["answer"], record["correct"]) for record in samples]
            counts[evaluation.votes][id] = consensus([votes]), 1
    return evaluation
