"""Numbers with 95% intervals: over questions in one run, over runs where there are several.

One run: a share is r = sum_q y_q / sum_q n_q over its questions q, of y right among n samples. Its standard error takes
the question as the unit, s^2 = Q / (Q - 1) sum_q e_q^2 with e_q = (y_q - r n_q) / sum n, and the interval is
r +- 1.96 s. With equally many samples a question that is the interval of reward/statistics.py. Of a difference of two
shares over the same questions e_q is the difference of theirs: paired.

Several runs: mean +- t s / sqrt(n) over the runs' values, t of Student's distribution with n - 1 degrees of freedom:
12.7 of two runs, 4.30 of three. It holds what the seed changes, training and questions alike.
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.special import stdtrit

from r1jax.report.folder import Counts


class Value(NamedTuple):
    """A number in one run, and its standard error over what it is a mean of, where that is known."""

    value: float
    error: float | None = None

    def __mul__(self, factor: float) -> "Value":
        return Value(self.value * factor, None if self.error is None else self.error * abs(factor))


class Estimate(NamedTuple):
    """A number over so many runs, with its interval, None where there is none. NaN where some run's is not finite."""

    mean: float
    low: float | None
    high: float | None
    runs: int


def over(values: Sequence[Value | None]) -> Estimate | None:
    """Over the runs that have a value; None where none has."""
    found = [value for value in values if value is not None]
    numbers = [value.value for value in found]
    if not found or not all(map(math.isfinite, numbers)):
        return Estimate(math.nan, None, None, len(found)) if found else None
    mean = fmean(numbers)
    if len(found) > 1:
        reach = float(stdtrit(len(found) - 1, 0.975)) * stdev(numbers) / math.sqrt(len(found))
    elif found[0].error is not None:
        reach = 1.96 * found[0].error
    else:
        return Estimate(mean, None, None, 1)
    return Estimate(mean, mean - reach, mean + reach, len(found))


def minus(a: Value | None, b: Value | None, error: float | None = None) -> Value | None:
    """a - b. error: of the difference, where the two are not independent."""
    if a is None or b is None:
        return None
    if error is None and a.error is not None and b.error is not None:
        error = math.hypot(a.error, b.error)
    return Value(a.value - b.value, error)


def share(counts: Counts) -> float | None:
    """The share over all questions, None where nothing was counted."""
    total = sum(n for _, n in counts.values())
    return sum(y for y, _ in counts.values()) / total if total else None


def share_error(counts: Counts) -> float | None:
    """Its standard error; None where there are fewer than two questions."""
    return _error(list(_influence(counts).values()))


def paired_error(a: Counts, b: Counts) -> float | None:
    """The standard error of share(a) - share(b); None where they are not over the same questions."""
    if a.keys() != b.keys():
        return None
    one, other = _influence(a), _influence(b)
    return _error([one[id] - other[id] for id in a]) if one and other else None


def mean_error(numbers: Sequence[float]) -> float | None:
    """The standard error of the mean of independent numbers; None of fewer than two."""
    return stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else None


def _influence(counts: Counts) -> dict[int, float]:
    """How much each question moves the share."""
    total, mean = sum(n for _, n in counts.values()), share(counts)
    return {} if mean is None else {id: (y - mean * n) / total for id, (y, n) in counts.items()}


def _error(influence: Sequence[float]) -> float | None:
    Q = len(influence)
    return math.sqrt(Q / (Q - 1) * sum(e * e for e in influence)) if Q > 1 else None
