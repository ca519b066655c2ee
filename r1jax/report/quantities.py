"""The quantities that the findings speak of, each a function of one run's folder; None where it was not run."""

import math
import re
from collections.abc import Callable
from statistics import fmean

from r1jax.report import estimate
from r1jax.report.estimate import Value, minus
from r1jax.report.folder import HELPFUL, Counts, Evaluation, Folder

Of = Callable[[Folder], Value | None]
TRUTHS = ("reward/manners", "reward/accuracy")  # what a reward model stands for
JUDGE = re.compile(r"^(?:\S+/)?judging\.Judge\.name = '(.*)'$", re.MULTILINE)  # in a stage's config.gin


def level(stage: str, key: str) -> Of:
    """A figure of an evaluation: a key of results.json; 'cons' for cons@k; 'reflective' for the share of right ones
    among the responses that hold a reflective word, NaN where none does; 'win_rate' for that of the general domain."""

    def of(folder: Folder) -> Value | None:
        found = folder.evaluations.get(stage)
        if found is None:
            return None
        counts, value = _figure(found, key)
        return None if value is None else Value(value, estimate.share_error(counts))

    return of


def gain(before: str, after: str, key: str = "pass@1", than: str | None = None) -> Of:
    """The difference of a figure between two evaluations, paired over their questions. than: the figure before, where
    it is another."""

    def of(folder: Folder) -> Value | None:
        one, other = folder.evaluations.get(after), folder.evaluations.get(before)
        if one is None or other is None:
            return None
        error = estimate.paired_error(_figure(one, key)[0], _figure(other, than or key)[0])
        return minus(level(after, key)(folder), level(before, than or key)(folder), error)

    return of


def _figure(found: Evaluation, key: str) -> tuple[Counts, float | None]:
    """(what it is counted from, its value)."""
    if key == "reflective":
        counts = found.counts[key]
        return counts, math.nan if counts and estimate.share(counts) is None else estimate.share(counts)
    name = found.votes if key == "cons" else key
    figures = found.domains.get(HELPFUL, found.results) if key == "win_rate" else found.results
    return found.counts[name], figures.get(name)


def rollouts(folder: Folder, stage: str, key: str) -> list[float]:
    """A metric of a stage's rollouts in order, where it is a number."""
    values = [record[key] for record in folder.training.get(stage, ()) if key in record]
    return [value for value in values if math.isfinite(value)]


def first(stage: str, key: str) -> Of:
    """Of the first rollout."""
    return lambda folder: Value(values[0]) if (values := rollouts(folder, stage, key)) else None


def last(stage: str, key: str) -> Of:
    """The mean of the last five rollouts, the first apart."""
    return lambda folder: Value(fmean(values[-5:])) if (values := rollouts(folder, stage, key)[1:]) else None


def growth(stage: str, key: str) -> Of:
    """The last five rollouts over the first; NaN from nothing."""

    def of(folder: Folder) -> Value | None:
        begin, end = first(stage, key)(folder), last(stage, key)(folder)
        if begin is None or end is None:
            return None
        return Value(end.value / begin.value if begin.value else math.nan)

    return of


def compute(stage: str, *others: str) -> Of:
    """A stage's model FLOPs over those of others together."""

    def of(folder: Folder) -> Value | None:
        spent = [(folder.done(name) or {}).get("flops") for name in (stage, *others)]
        return Value(spent[0] / sum(spent[1:])) if all(spent) else None

    return of


def judged(folder: Folder) -> list[tuple[str, str]]:
    """(stage, judge) of all that learned from a reward model, the one that followed it longest first."""
    found = [
        (stage, name)
        for stage in folder.training
        for name in dict.fromkeys(JUDGE.findall(folder.config(stage)))
        if rollouts(folder, stage, f"reward/{name}")
    ]
    return sorted(found, key=lambda pair: -len(rollouts(folder, pair[0], f"reward/{pair[1]}")))


def drift(key: str | None, falls: bool = False) -> Of:
    """The mean over the last quarter of the rollouts that a judge counted in, less that over the first; in the stage
    that followed its judge longest. key: a metric, None for the judge's reward. falls: how much it falls."""

    def of(folder: Folder) -> Value | None:
        followed = judged(folder)
        if not followed:
            return None
        stage, name = followed[0]
        judge = f"reward/{name}"
        counted = [record for record in folder.training[stage] if math.isfinite(record.get(judge, math.nan))]
        values = [v for record in counted if math.isfinite(v := record.get(key or judge, math.nan))]
        quarter = len(values) // 4
        if quarter < 2:
            return None
        before, after = values[:quarter], values[-quarter:]
        one, other = (Value(fmean(part), estimate.mean_error(part)) for part in (after, before))
        return minus(other, one) if falls else minus(one, other)

    return of


def form_gain(folder: Folder) -> Value | None:
    """What R1-Zero gains over the base by answering in the asked format: all but the gain in any format."""
    whole = gain("evaluate_base", "evaluate_zero")(folder)
    ability = gain("evaluate_base", "evaluate_zero", "pass@1_any_format")(folder)
    return minus(whole and Value(whole.value), ability and Value(ability.value))


def difference(a: Of, b: Of, share: float = 1.0) -> Of:
    """share x a - b."""

    def of(folder: Folder) -> Value | None:
        found = a(folder)
        return minus(found and found * share, b(folder))

    return of
