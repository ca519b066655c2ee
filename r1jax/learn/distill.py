"""Distillation from a teacher's logits on given text, beside the paper's way of learning its text alone.

    L = sum over tokens of w [ sum over v in K of p(v) log p(v) / q(v)  +  p(rest) log p(rest) / q(rest) ]

p is the teacher, q the student, K the teacher's likeliest tokens; all others count as one. This is the forward
Kullback-Leibler divergence (1503.02531) between the two once the rest is lumped together, so it is never negative, and
never above the divergence over all tokens.
"""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.learn import microbatch
from r1jax.learn.likelihood import Model, choice_scores, chunks_of, token_scores
from r1jax.learn.state import Batch
from r1jax.model import lm
from r1jax.model.layout import Layout

FLOOR = 1e-6  # of what is left to the rest, against the logarithm of rounding


@flax.struct.dataclass
class Lesson(Batch):
    """Rows with what the teacher thinks: ids [M, B, T, K] int32 of its likeliest tokens, logp [M, B, T, K] float32."""

    ids: jax.Array
    logp: jax.Array


def lesson(teacher: lm.Policy, batch: Batch, count: jax.Array, *, model: Model, top: int) -> Lesson:
    """Adds the teacher's `top` likeliest tokens to the first `count` microbatches."""

    def thought(rows):
        out = lm.forward(teacher, rows, cfg=model.cfg, layout=model.layout, remat=False, mtp=False)
        return likeliest(out.x_BTD, out.head_DX, top, layout=model.layout)

    ids, logp = microbatch.each(thought, batch.rows, count)
    return Lesson(rows=batch.rows, weights=batch.weights, row_weight=batch.row_weight, ids=ids, logp=logp)


def likeliest(x_BTD, head_DX, top: int, *, layout: Layout) -> tuple[jax.Array, jax.Array]:
    """(ids, log-probabilities) [B, T, top] of the likeliest tokens at each place, the likeliest first."""
    choices = jax.P(*layout.BT, None)
    run = jax.shard_map(
        partial(_in_chunks, top=top, tensor=layout.tensor),
        in_specs=(layout.BTD, jax.P(None, layout.tensor)),
        out_specs=(choices, choices),
        check_vma=False,  # after the gather all shards of the vocabulary hold the same, which it cannot tell
    )
    return run(x_BTD, head_DX)


def _in_chunks(x_BTD, head_DX, *, top, tensor):
    B, T, _ = x_BTD.shape
    chunks = chunks_of(B * T, head_DX.shape[1])
    one = partial(_chunk, head_DX=head_DX, top=top, tensor=tensor)
    ids, logp = jax.lax.map(one, x_BTD.reshape(chunks, B * T // chunks, -1))
    return ids.reshape(B, T, top), logp.reshape(B, T, top)


def _chunk(x_nD, *, head_DX, top, tensor):
    z_nX = jnp.einsum("nd,dx->nx", x_nD, head_DX, preferred_element_type=jnp.float32)
    log_total = jax.nn.logsumexp(z_nX, -1)
    z_nK, ids_nK = jax.lax.top_k(z_nX, min(top, head_DX.shape[1]))
    if tensor:
        log_total = jax.nn.logsumexp(jax.lax.all_gather(log_total, tensor), 0)
        ids_nK = ids_nK + jax.lax.axis_index(tensor) * head_DX.shape[1]
        z_nK, ids_nK = (jax.lax.all_gather(a, tensor, axis=1, tiled=True) for a in (z_nK, ids_nK))
        z_nK, place = jax.lax.top_k(z_nK, top)
        ids_nK = jnp.take_along_axis(ids_nK, place, 1)
    return ids_nK, z_nK - log_total[:, None]


def forward_kl(policy: lm.Policy, batch: Lesson, *, model: Model, share: float):
    """`share` x the divergence plus the rest of one x the next-token loss, of one microbatch, and the balance loss.
    -> (loss, (sums, loads))."""
    out = lm.forward(policy, batch.rows, cfg=model.cfg, layout=model.layout, remat=model.remat, mtp=False)
    logq, _ = choice_scores(out.x_BTD, out.head_DX, batch.ids, 1.0, layout=model.layout)
    p, q = jnp.exp(batch.logp), jnp.exp(logq)
    rest_p, rest_q = (jnp.maximum(1 - a.sum(-1), FLOOR) for a in (p, q))
    divergence_BT = (p * (batch.logp - logq)).sum(-1) + rest_p * jnp.log(rest_p / rest_q)
    divergence = (divergence_BT * batch.weights).sum()
    logp, _ = token_scores(out.x_BTD, out.head_DX, batch.rows.targets, 1.0, layout=model.layout)
    nll = -(logp * batch.weights).sum()
    balance = sum((load.balance_loss.sum() for load in out.loads.values()), jnp.zeros(())) * batch.row_weight
    sums = {"loss/divergence": divergence, "loss/next_token": nll, "loss/balance": balance}
    return share * divergence + (1 - share) * nll + balance, (sums, out.loads)
