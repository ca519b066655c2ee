"""The figures of an evaluation, against values worked out by hand."""

import dataclasses
import itertools
import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.base.fields import UserError
from r1jax.data.questions import Question
from r1jax.reward.grade import Grade
from r1jax.reward.statistics import average, consensus, interval, pass_at, summary


def graded(answer: str | None, truth: str = "2", **changes) -> Grade:
    correct = answer is not None and float(answer) == float(truth)
    grade = Grade(
        correct=correct,
        correct_any_format=correct,
        formatted=answer is not None,
        parsed=answer is not None,
        truncated=answer is None,
        language=1.0,
        reflections=0,
        answer=answer,
        tokens=10,
    )
    return dataclasses.replace(grade, **changes)


def rows(*answers: str) -> list[list[Grade]]:
    """One question for each string of one-digit answers; a dash is a response without one; the truth is 2."""
    return [[graded(None if a == "-" else a) for a in row] for row in answers]


def test_pass_at_1_is_the_mean_over_questions_with_its_interval():
    grades = rows("2222", "2211", "1111", "2111")  # means 1, 1/2, 0, 1/4
    assert average(grades, "correct") == 0.4375
    error = math.sqrt((0.31640625 + 0.00390625 + 0.19140625 + 0.03515625) / 3 / 4)
    assert interval(grades, "correct") == pytest.approx((0.4375 - 1.96 * error, 0.4375 + 1.96 * error))


def test_samples_of_one_question_are_not_taken_as_independent():
    few, many = rows("22", "11") * 20, rows("2" * 100, "1" * 100) * 20
    assert interval(few, "correct") == pytest.approx(interval(many, "correct"))


def test_interval_at_its_ends():
    assert interval(rows("2222"), "correct") == (0, 1)
    assert interval(rows("22", "22"), "correct") == (1, 1)
    low, high = interval(rows("22", "22", "11"), "correct")
    assert (low, high) == (pytest.approx(2 / 3 - 1.96 / 3), 1)


def test_the_interval_covers_what_it_says():
    rng, hits = random.Random(0), 0
    right, wrong = graded("2"), graded("1")
    for _ in range(300):
        chances = [rng.random() for _ in range(60)]
        low, high = interval([[right if rng.random() < p else wrong for _ in range(4)] for p in chances], "correct")
        hits += low <= 0.5 <= high
    assert 0.91 <= hits / 300 <= 0.98


def test_pass_at_k_by_hand():
    grades = rows("2211", "1111")
    assert pass_at(grades, 1) == average(grades, "correct") == 0.25
    assert pass_at(grades, 2) == pytest.approx((1 - 1 / 6) / 2)  # C(2,2) / C(4,2)
    assert pass_at(grades, 4) == 0.5
    with pytest.raises(UserError, match="pass@5"):
        pass_at(grades, 5)


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_mean_over_all_draws(k, data):
    right, j = data.draw(st.integers(0, k)), data.draw(st.integers(1, k))
    draws = list(itertools.combinations([True] * right + [False] * (k - right), j))
    assert pass_at(rows("2" * right + "1" * (k - right)), j) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize(
    ("answers", "value"),
    [
        ("2221", 1),
        ("2111", 0),
        ("2211", 1 / 2),
        ("2134", 1 / 4),
        ("3311", 0),
        ("2---", 1),
        ("----", 0),
        ("22--", 1),
    ],
)
def test_consensus(answers, value):
    assert consensus(rows(answers)) == pytest.approx(value)


def test_equal_answers_vote_together():
    assert consensus([[graded("2"), graded("2.0"), graded("1"), graded("02"), graded("1")]]) == 1


@given(st.lists(st.text("12-", min_size=4, max_size=4), min_size=1, max_size=5), st.randoms())
def test_the_order_of_samples_never_shows(answers, rng):
    grades = rows(*answers)
    shuffled = [rng.sample(samples, len(samples)) for samples in grades]
    questions = [Question(i, "", "2", "en", i % 2) for i in range(len(grades))]
    assert summary(questions, grades) == summary(questions, shuffled)
    assert 0 <= average(grades, "correct") <= pass_at(grades, 4) <= 1


def test_summary():
    questions = [Question(i, "", "2", "en", difficulty) for i, difficulty in enumerate([5, 3, 5])]
    grades = [
        [graded("2", reflections=3, language=0.5), graded("2", tokens=30)],
        [graded("1"), graded(None, correct_any_format=True)],
        [graded("2"), graded("1", formatted=False)],
    ]
    result = summary(questions, grades)
    assert json.loads(json.dumps(result)) == result
    by_difficulty = result.pop("by_difficulty")
    assert list(by_difficulty) == ["3", "5"]
    assert by_difficulty["3"] == {
        "pass@1": 0,
        "pass@1_ci95": [0, 1],
        "pass@1_any_format": 0.5,
        "pass@2": 0,
        "cons@2": 0,
        "format": 0.5,
        "language": 1,
        "reflection": 0,
        "tokens_mean": 10,
        "truncated": 0.5,
        "questions": 1,
        "samples": 2,
    }
    assert by_difficulty["5"]["pass@1"] == 0.75 and by_difficulty["5"]["questions"] == 2
    assert result.pop("pass@1_ci95") == [0, 1]  # means 1, 0, 1/2: standard error .29, cut at both ends
    assert result == pytest.approx(
        {
            "pass@1": 1 / 2,
            "pass@1_any_format": 2 / 3,
            "pass@2": 2 / 3,
            "cons@2": 1 / 2,
            "format": 2 / 3,
            "language": 5.5 / 6,
            "reflection": 1 / 2,
            "tokens_mean": 80 / 6,
            "truncated": 1 / 6,
            "questions": 3,
            "samples": 2,
        }
    )


def test_uneven_samples_are_refused():
    questions = [Question(i, "", "2", "en", 1) for i in range(2)]
    with pytest.raises(UserError, match="equally many"):
        summary(questions, rows("22", "2"))
    with pytest.raises(UserError, match="equally many"):
        summary(questions, rows("", ""))
    with pytest.raises(UserError, match="equally many"):
        summary([], [])


def test_what_cannot_be_checked_has_no_accuracy_and_what_is_judged_has_a_win_rate():
    questions = [Question(0, "", "2", "en", 1), Question(1, "", "", "en", 1, "helpful")]
    reply = graded(None, correct=None, correct_any_format=None, quality=0.75, win=0.5)
    result = summary(questions, [[graded("2"), graded("1")], [reply, dataclasses.replace(reply, win=1.0)]])
    assert result["pass@1"] == 0.5 and result["questions"] == 1 and "quality" not in result
    assert list(result["by_difficulty"]) == ["1"] and result["by_difficulty"]["1"]["questions"] == 1
    helpful = result["by_domain"]["helpful"]
    assert helpful["quality"] == 0.75 and helpful["win_rate"] == 0.75 and "pass@1" not in helpful
    assert result["by_domain"]["math"]["pass@1"] == 0.5
    alone = summary(questions[1:], [[reply, reply]])
    assert alone["win_rate"] == 0.5 and "pass@1" not in alone and "by_domain" not in alone
