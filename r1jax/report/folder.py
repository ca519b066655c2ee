"""A run's folder as the report reads it: its stages and what they left. What is absent is None or empty."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from etils import epath

from r1jax.base import metrics
from r1jax.base.fields import UserError, require
from r1jax.reward.statistics import consensus

HELPFUL = "helpful"  # the domain whose replies the held-out judge compares
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
        recipe = self._json("recipe.json")
        below = sorted(self.root.glob("*/recipe.json")) if self.root.is_dir() else []
        meant = f"; is {below[0].parent} meant?" if below else ": give a folder that `r1jax run` made, runs/<recipe>"
        is_run = isinstance(recipe, dict) and {"recipe", "stages"} <= recipe.keys()
        require(is_run, f"{self.root} holds no run, there is no recipe.json of one{meant}")
        self.recipe: str = recipe["recipe"]
        self.stages: list[str] = list(recipe["stages"])

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """Those that are complete, by stage."""
        found = {stage: self._json(f"{stage}/results.json") for stage in self.stages}
        return {
            stage: _evaluation(results, self.records(stage, "samples"))
            for stage, results in found.items()
            if results is not None and "samples" in results
        }

    @cached_property
    def training(self) -> dict[str, list[dict]]:
        """The metrics of the stages that have some."""
        found = {stage: self.records(stage, "metrics") for stage in self.stages}
        return {stage: records for stage, records in found.items() if records}

    @cached_property
    def transcripts(self) -> dict[str, list[dict]]:
        """The sampled responses of the stages that train on them."""
        read = {stage: self.records(stage, "samples") for stage in self.training}
        shown = {stage: [record for record in records if "step" in record] for stage, records in read.items()}
        return {stage: records for stage, records in shown.items() if records}

    @cached_property
    def seconds(self) -> dict[str, float]:
        return self._json("times.json") or {}

    @cached_property
    def rate(self) -> float | None:
        """FLOP/s of the machine's matrix products, where they were measured."""
        return (self._json("machine.json") or {}).get("flops_per_second")

    @property
    def label(self) -> str:
        """The run's seed, or where it says none, its folder."""
        seeds = {evaluation.results.get("seed") for evaluation in self.evaluations.values()}
        return f"seed {seeds.pop()}" if len(seeds) == 1 and None not in seeds else str(self.root)

    def done(self, stage: str) -> dict[str, Any] | None:
        return self._json(f"{stage}/done.json")

    def yielded(self, stage: str) -> dict[str, dict[str, int]] | None:
        return self._json(f"{stage}/yield.json")

    def config(self, stage: str) -> str:
        path = self.root / stage / "config.gin"
        return path.read_text() if path.exists() else ""

    def records(self, stage: str, name: str) -> list[dict]:
        path = self.root / stage / f"{name}.jsonl"
        return _read(path, metrics.read)

    def _json(self, name: str) -> Any:
        path = self.root / name
        return _read(path, lambda path: json.loads(path.read_text())) if path.exists() else None


def _read(path: epath.Path, read: Callable) -> Any:
    try:
        return read(path)
    except ValueError as error:
        raise UserError(f"{path} is no JSON: {error}") from error


def _evaluation(results: dict, records: Sequence[dict]) -> Evaluation:
    questions: dict[int, list[dict]] = {}
    for record in records:
        if record.keys() >= {"id", "answer", *FIELDS.values()}:
            questions.setdefault(record["id"], []).append(record)
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
