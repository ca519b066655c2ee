"""Model FLOPs against counts by hand."""

import numpy as np
import small

from r1jax.base.mesh import Mesh
from r1jax.model import cost


def test_a_token_of_a_dense_model():
    """q and o 16 x 16, k and v 16 x 8, three matrices 16 x 32, two layers; a tied head 16 x 32. A key costs each of 2
    layers and 4 heads a product of 4 numbers for its score and one for its value."""
    weights = 2 * (2 * 256 + 2 * 128 + 3 * 512) + 512
    assert cost.active_weights(small.DENSE) == weights
    with small.on(Mesh(data=2, fsdp=2, expert=2)):  # as a stage asks
        assert cost.active_weights(small.DENSE) == weights
    assert cost.forward_flops(small.DENSE, 10) == 2 * weights + 2 * 2 * 4 * (4 + 4) * 10


def test_a_token_of_an_expert_model():
    """Of 8 experts of width 8 it takes 2, and the shared one; multi-token prediction does not count."""
    attention = 16 * 8 + 8 * 4 * 8 + 16 * 12 + 8 * 4 * 10 + 4 * 6 * 16
    weights = 3 * attention + 3 * 16 * 32 + 2 * (3 * (2 + 1) * 16 * 8 + 16 * 8) + 16 * 32
    assert cost.active_weights(small.MOE) == weights
    with small.on(Mesh(data=2, fsdp=2, expert=2)):
        assert cost.active_weights(small.MOE) == weights


def test_sequences_attend_to_themselves_and_before():
    assert cost.sequences(np.array([1, 3])) == (4, 1 + (1 + 2 + 3))
    tokens, keys = cost.sampling(np.array([2, 1]), np.array([[1, 3], [2, 0]]))
    assert tokens == (2 + 1 + 3) + (1 + 2 + 0)  # each prompt once
    assert keys == (1 + 2) + 3 + (3 + 4 + 5) + 1 + (2 + 3)
    weights = cost.active_weights(small.DENSE)
    assert cost.forward(small.DENSE, tokens, keys) == 2 * weights * tokens + 128 * keys
    assert cost.forward(small.DENSE, 0, 0) == 0
