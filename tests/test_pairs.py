"""Which samples are paired: random samples whose better ones are longer."""

import numpy as np
import pytest

from r1jax.data.pairs import choose

MARGIN = 0.3


def samples(lean: float, questions: int = 200):
    """Eight samples a question; `lean`: how many tokens a quality of 1 brings."""
    rng = np.random.default_rng(0)
    names = [f"q{i // 8}" for i in range(8 * questions)]
    order = rng.permutation(len(names))
    quality = rng.choice(np.linspace(0, 1, 6), len(names))
    length = (rng.integers(5, 60, len(names)) + lean * quality).astype(int)
    return [names[i] for i in order], quality.tolist(), length.tolist()


def means(pairs, length) -> tuple[float, float]:
    return tuple(float(np.mean([length[pair[side]] for pair in pairs])) for side in (0, 1))


@pytest.mark.parametrize("lean", [0, 30, -30])
def test_pairs_keep_the_margin_and_match_in_length(lean):
    names, quality, length = samples(lean)
    pairs = choose(names, quality, length, margin=MARGIN, tolerance=0.02, seed=0)
    assert all(names[i] == names[j] and quality[i] - quality[j] > MARGIN for i, j in pairs)
    asked = [names[i] for i, _ in pairs]
    assert len(set(asked)) == len(asked) > 190  # one pair a question, and hardly a question without
    assert sorted(asked, key=names.index) == asked
    chosen, rejected = means(pairs, length)
    assert chosen == pytest.approx(rejected, rel=0.021)


def test_without_matching_the_lengths_lie_apart():
    names, quality, length = samples(30)
    pairs = choose(names, quality, length, margin=MARGIN, tolerance=None, seed=0)
    chosen, rejected = means(pairs, length)
    assert chosen > 1.2 * rejected and len(pairs) > 190


def test_where_the_better_one_is_always_longer_pairs_are_given_up():
    """Two samples a question. A pair's difference is 1, 2, ... 10 tokens, but for one that leans the other way by 12:
    the five that lean least stay with it, 45 + 6 tokens on the one side and 30 + 18 on the other."""
    names = [f"q{i}" for i in range(11) for _ in range(2)]
    length = [n for i in range(1, 11) for n in (6 + i, 6)] + [6, 18]
    pairs = choose(names, [1.0, 0.0] * 11, length, margin=0.5, tolerance=0.1, seed=0)
    assert pairs == [(0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (20, 21)]
    assert choose(names[:20], [1.0, 0.0] * 10, length[:20], margin=0.5, tolerance=0.1, seed=0) == []


def test_the_seed_decides():
    names, quality, length = samples(10)
    drawn = [choose(names, quality, length, margin=MARGIN, tolerance=0.05, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_nothing_above_the_margin_is_no_pair():
    assert choose(["a", "a", "b"], [0.5, 0.2, 1.0], [3, 4, 5], margin=0.3, tolerance=0.1, seed=0) == []
    assert choose([], [], [], margin=0.3, tolerance=0.1, seed=0) == []
