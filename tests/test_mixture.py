"""The mixture of a rollout's questions: shares, rounding, and who enters when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1jax.base.fields import UserError
from r1jax.data.mixture import Share, counts


def test_general_questions_enter_in_the_last_steps_only():
    shares = (Share(domain="math", weight=3), Share(domain="code"), Share(domain="helpful", weight=4, last=400))
    assert counts(shares, 32, 0, 1700) == counts(shares, 32, 1299, 1700) == {"math": 24, "code": 8}
    assert counts(shares, 32, 1300, 1700) == {"math": 12, "code": 4, "helpful": 16}


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(1, 200))
def test_counts_are_the_shares_up_to_rounding(weights, questions):
    shares = [Share(domain=str(i), weight=weight) for i, weight in enumerate(weights)]
    found = counts(shares, questions, 0, 1)
    assert sum(found.values()) == questions
    for share in shares:
        assert abs(found[share.domain] - questions * share.weight / sum(weights)) < 1


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(UserError, match="no mixture.Share enters at step 0; one of them must have last = None"):
        counts((Share(domain="helpful", last=10),), 32, 0, 100)
    with pytest.raises(UserError, match="weight of 'math' is 0; it must be positive"):
        Share(domain="math", weight=0)
