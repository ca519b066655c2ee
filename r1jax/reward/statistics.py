"""Numbers of an evaluation, from k graded samples of each of n questions.

    pass@1 = mean over questions of the mean over samples
    pass@j = mean over questions of 1 - C(k - c, j) / C(k, j), c of k right     (Chen et al. 2021, equation 1)
    cons@k = mean over questions of whether the most frequent answer is right

Samples of one question are not independent, so the interval of pass@1 takes the question as the unit: the normal
approximation, mean +- 1.96 standard errors over the questions' means. It holds for dozens of questions or more, is cut
to [0, 1], and closes on the mean where all questions score the same; a single question says nothing, [0, 1].

Grades come as one sequence per question, all of one length.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean, stdev

from r1jax.base.fields import require
from r1jax.reward.answers import canonical
from r1jax.reward.grade import Grade
from r1jax.reward.response import Question

Grades = Sequence[Sequence[Grade]]


def average(grades: Grades, field: str) -> float:
    """Mean over questions of the mean over samples of one field of the grades; pass@1 where the field is `correct`."""
    return fmean(fmean(getattr(grade, field) for grade in samples) for samples in grades)


def interval(grades: Grades, field: str) -> tuple[float, float]:
    """The 95% confidence interval of `average` for a field that is a share."""
    if len(grades) == 1:
        return 0.0, 1.0
    means = [fmean(getattr(grade, field) for grade in samples) for samples in grades]
    mean, reach = fmean(means), 1.96 * stdev(means) / math.sqrt(len(means))
    return max(mean - reach, 0.0), min(mean + reach, 1.0)


def pass_at(grades: Grades, j: int) -> float:
    """The chance that at least one of j samples is right, without bias, from k >= j samples."""

    def of_question(samples: Sequence[Grade]) -> float:
        k, right = len(samples), sum(grade.correct for grade in samples)
        require(1 <= j <= k, f"pass@{j} needs {j} samples a question; there are {k}")
        return 1 - math.comb(k - right, j) / math.comb(k, j)

    return fmean(map(of_question, grades))


def consensus(grades: Grades) -> float:
    """The expected share of questions whose majority vote is right, ties broken at random. A response without an answer
    has no vote; a question without votes is wrong."""

    def of_question(samples: Sequence[Grade]) -> float:
        votes = Counter(canonical(grade.answer) for grade in samples if grade.answer is not None)
        right = {canonical(grade.answer) for grade in samples if grade.correct}
        most = max(votes.values(), default=0)
        winners = {answer for answer, count in votes.items() if count == most}
        return len(winners & right) / len(winners) if winners else 0.0

    return fmean(map(of_question, grades))


def summary(questions: Sequence[Question], grades: Grades) -> dict:
    """The results of an evaluation, for JSON: over all questions that can be checked (where none can, over all), under
    `by_difficulty` per difficulty of those, and under `by_domain`, where there are several, per domain of all."""
    pairs = list(zip(questions, grades, strict=True))
    checked = [pair for pair in pairs if pair[1] and pair[1][0].correct is not None] or pairs
    results = _summary([samples for _, samples in checked])
    results["by_difficulty"] = _by(checked, lambda question: question.difficulty)
    domains = _by(pairs, lambda question: question.domain)
    return results | ({"by_domain": domains} if len(domains) > 1 else {})


def _by(pairs: Sequence[tuple[Question, Sequence[Grade]]], key: Callable) -> dict[str, dict]:
    groups = {}
    for question, samples in pairs:
        groups.setdefault(key(question), []).append(samples)
    return {str(name): _summary(groups[name]) for name in sorted(groups)}


def _summary(grades: Grades) -> dict:
    sizes = {len(samples) for samples in grades}
    require(len(sizes) == 1 and min(sizes) > 0, f"an evaluation needs questions with equally many samples, not {sizes}")
    k = sizes.pop()
    first = grades[0][0]
    results = {}
    if first.correct is not None:
        results |= {
            "pass@1": average(grades, "correct"),
            "pass@1_ci95": list(interval(grades, "correct")),
            "pass@1_any_format": average(grades, "correct_any_format"),
            f"pass@{k}": pass_at(grades, k),
            f"cons@{k}": consensus(grades),
        }
    if first.quality is not None:
        results |= {
            "quality": average(grades, "quality"),
            "win_rate": average(grades, "win"),
            "win_rate_ci95": list(interval(grades, "win")),
        }
    return results | {
        "format": average(grades, "formatted"),
        "language": average(grades, "language"),
        "reflection": average(grades, "reflections"),
        "tokens_mean": average(grades, "tokens"),
        "truncated": average(grades, "truncated"),
        "questions": len(grades),
        "samples": k,
    }
