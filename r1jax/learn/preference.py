"""What a reward model learns from: pairs of responses, or single ones with a label.

    pairwise   L = - sum over pairs of w log sigmoid(r_chosen - r_rejected)                 (2203.02155, equation 1)
    pointwise  L = - sum over responses of w (y log sigmoid(r) + (1 - y) log sigmoid(-r))

r is the scorer's value at a response's last token. Both are losses for `update`: (scorer, microbatch) -> (loss, (sums,
loads)). The weights sum to one over the batch, so the sums are means. A pair lies in one row, so nothing is exchanged.
"""

from functools import partial

import jax
import jax.numpy as jnp

from r1jax.learn import scorer as scorers
from r1jax.learn.likelihood import Model
from r1jax.learn.state import LabelledBatch
from r1jax.model import lm
from r1jax.model.layout import Layout


def pairwise(scorer: lm.Policy, batch: LabelledBatch, *, model: Model):
    """Labels: 1 chosen, -1 rejected; the two sequences of a pair are segments 2k - 1 and 2k of their row. accuracy:
    share of pairs in order, a tie counts half. margin: mean of r_chosen - r_rejected."""
    values, loads = scorers.values(scorer, batch.rows, model=model)
    signed = jnp.where(batch.weights > 0, values * batch.labels, 0.0)
    margin, weight = (_per_pair(a, batch.rows.segments, model.layout) for a in (signed, batch.weights))
    loss = -(weight * jax.nn.log_sigmoid(margin)).sum()
    right = (jnp.sign(margin) + 1) / 2
    return loss, ({"accuracy": (weight * right).sum(), "margin": (weight * margin).sum()}, loads)


def pointwise(scorer: lm.Policy, batch: LabelledBatch, *, model: Model):
    """Labels: 1 or 0. accuracy: share of responses on their label's side of 0, 0 itself counts half. margin: mean of r
    where the label is 1 and -r where it is 0."""
    values, loads = scorers.values(scorer, batch.rows, model=model)
    margin = jnp.where(batch.weights > 0, values * (2 * batch.labels - 1), 0.0)
    loss = -(batch.weights * jax.nn.log_sigmoid(margin)).sum()
    right = (jnp.sign(margin) + 1) / 2
    return loss, ({"accuracy": (batch.weights * right).sum(), "margin": (batch.weights * margin).sum()}, loads)


def _per_pair(values_BT: jax.Array, segments_BT: jax.Array, layout: Layout) -> jax.Array:
    """Sums [B, pairs of a row at most] over the tokens of each pair; slot 0 is padding."""
    row = jax.P(layout.rows, None)

    @partial(jax.shard_map, in_specs=(row, row), out_specs=row)
    @jax.vmap
    def sums(values, segments):
        return jax.ops.segment_sum(values, (segments + 1) // 2, (values.shape[0] + 1) // 2 + 1)

    return sums(*(jax.reshard(a, row) for a in (values_BT, segments_BT)))
