"""Language consistency and reflective words, on real sentences of both languages and of others."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.base.fields import UserError
from r1jax.reward.words import consistency, reflections


@pytest.mark.parametrize(
    ("text", "english", "chinese"),
    [
        ("So the sum is even.", 1, 0),
        ("Don't panic, that's naïve.", 1, 0),
        ("所以总和是偶数。", 0, 1),
        ("So 所以", 1 / 3, 2 / 3),
        ("wait等等", 1 / 3, 2 / 3),
        ("7+5=2, 2*3=6", 1, 1),
        ("", 1, 1),
        ("设 x=3，则 y²=π", 0, 1),
        (r"由 \frac{a}{b} \leq 1 得", 0, 1),
        (r"so \text{area}", 1, 0),
        ("итак so", 0.5, 0),
        ("だから so", 0.5, 0),
        ("３％ № ½ ⅷ", 1, 1),
        ("𠀀〇", 0, 1),
    ],
)
def test_consistency(text, english, chinese):
    assert consistency(text, "en") == pytest.approx(english)
    assert consistency(text, "zh") == pytest.approx(chinese)


def test_an_unknown_language_is_named():
    with pytest.raises(UserError, match="'fr'"):
        consistency("alors", "fr")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("wait mistake however but retry error verify wrong evaluate check", 10),
        ("Wait, WAIT. =2wait5 等wait等", 4),
        ("waiter waits checkbox butter errors wrongly await", 0),
        ("2*4=6等等2*4=8", 1),
        ("等等，不对，这里错了，重新计算：检查一下，验证结果，但是", 7),
        ("没错，不错，对不对？不但快", 0),
        ("算错，错误，出错", 3),
        ("重算 重试 重做 重新算", 4),
        ("", 0),
    ],
)
def test_reflections(text, count):
    assert reflections(text) == count


@given(st.text(), st.text())
def test_counts_are_bounded_and_add_up(a, b):
    assert 0 <= consistency(a, "en") + consistency(a, "zh") <= 2
    assert reflections(a + " | " + b) == reflections(a) + reflections(b)


@pytest.mark.parametrize("text", ["a" * 10**6, "a'" * 10**6, "等" * 10**6, "\\" * 10**6, "я" * 10**6, "ab'" * 10**6])
def test_a_huge_text_takes_no_time(text):
    start = time.process_time()
    consistency(text, "en"), reflections(text)
    assert time.process_time() - start < 10
