"""Drawing a token: temperature, then top-k and top-p, then one uniform number by inverse CDF.

One uniform per draw instead of one Gumbel number per vocabulary entry. Log-probabilities are those after the
temperature
and before the filters; `mass` is the probability that the filters left, so that the filtered one can be had as well.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Draw(NamedTuple):
    """token [B] int32; logp [B] float32, of the token at the temperature; mass [B], what top-k and top-p kept."""

    token: jax.Array
    logp: jax.Array
    mass: jax.Array


def draw(logits_BX, uniform_B, *, temperature: float, top_p: float | None, top_k: int | None) -> Draw:
    """Draws one token per row. uniform_B in [0, 1). temperature 0 takes the likeliest token, at log-probability 0."""
    if temperature == 0:
        token = logits_BX.argmax(-1).astype(jnp.int32)
        return Draw(token, jnp.zeros(token.shape), jnp.ones(token.shape))
    logp_BX = jax.nn.log_softmax(logits_BX.astype(jnp.float32) / temperature)
    p_BX = kept_BX = jnp.exp(logp_BX)
    if top_k is not None:
        kept_BX = jnp.where(p_BX >= _smallest(p_BX, lambda keep: keep.sum(-1) >= top_k), kept_BX, 0)
    if top_p is not None:
        goal = top_p * kept_BX.sum(-1)
        here = kept_BX
        kept_BX = jnp.where(p_BX >= _smallest(here, lambda keep: (here * keep).sum(-1) >= goal), kept_BX, 0)
    token = inverse_cdf(kept_BX, uniform_B)
    logp = jnp.take_along_axis(logp_BX, token[:, None], -1)[:, 0]
    return Draw(token, logp, kept_BX.sum(-1))


def _smallest(p_BX: jax.Array, enough) -> jax.Array:
    """The largest threshold [B, 1] for which `enough(p >= threshold)` holds: a binary search over the bits of a float.

    Positive floats sort like their bits, so 31 halvings find the exact value, without sorting the vocabulary."""
    bits_BX = jax.lax.bitcast_convert_type(p_BX, jnp.int32)

    def halve(i, low_B):
        candidate_B = low_B | (1 << (30 - i))
        return jnp.where(enough(bits_BX >= candidate_B[:, None]), candidate_B, low_B)

    low_B = jax.lax.fori_loop(0, 31, halve, bits_BX[:, 0] * 0)
    return jax.lax.bitcast_convert_type(low_B, jnp.float32)[:, None]


def inverse_cdf(p_BX: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """The first index whose cumulative (unnormalised) probability passes uniform x total: in blocks of about
    sqrt(X)."""
    B, X = p_BX.shape
    size = math.ceil(math.sqrt(X))
    blocks = -(-X // size)
    p = jnp.pad(p_BX, ((0, 0), (0, blocks * size - X))).reshape(B, blocks, size)
    ends = jnp.cumsum(p.sum(-1), -1)
    goal = uniform_B * ends[:, -1]
    block = _first_above(ends, goal, p.max(-1) > 0)
    inside = jnp.take_along_axis(p, block[:, None, None], 1)[:, 0]
    before = jnp.where(block > 0, jnp.take_along_axis(ends, jnp.maximum(block - 1, 0)[:, None], 1)[:, 0], 0.0)
    return (block * size + _first_above(jnp.cumsum(inside, -1), goal - before, inside > 0)).astype(jnp.int32)


def _first_above(cumulative: jax.Array, goal: jax.Array, possible: jax.Array) -> jax.Array:
    """First index above the goal; where rounding leaves none, the last possible one. Never one of probability 0."""
    last = possible.shape[-1] - 1 - jnp.argmax(possible[:, ::-1], -1)
    first = jnp.argmax((cumulative > goal[:, None]) & possible, -1)
    return jnp.where(((cumulative > goal[:, None]) & possible).any(-1), first, last)
