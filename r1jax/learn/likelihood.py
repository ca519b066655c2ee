"""Log-probabilities of targets, without ever holding the logits of a whole batch; and the next-token loss on them.

The head runs inside `shard_map`, chunk of tokens by chunk, the vocabulary over tensor, each chunk rematerialised in the
backward pass: the largest array is [chunk, X].
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax.learn import microbatch
from r1jax.learn.state import Batch
from r1jax.model import lm
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout

CHUNK = 2**22  # logits held at once on a device, in numbers


class Model(NamedTuple):
    """All that scoring and updating need to know of a model, static."""

    cfg: Transformer
    layout: Layout
    remat: bool


class Scores(NamedTuple):
    """logp [B, T] of the targets and entropy [B, T] of their distribution, both in nats, float32; the experts'
    loads."""

    logp: jax.Array
    entropy: jax.Array
    loads: dict[str, lm.Load]


def score(policy: lm.Policy, rows: lm.Rows, temperature: jax.Array | float, *, model: Model) -> Scores:
    """Scores each target of packed rows at a temperature; what stands at padding means nothing."""
    out = lm.forward(policy, rows, cfg=model.cfg, layout=model.layout, remat=model.remat, mtp=False)
    logp, entropy = token_scores(out.x_BTD, out.head_DX, rows.targets, temperature, layout=model.layout)
    return Scores(logp, entropy, out.loads)


def score_all(policy: lm.Policy, rows: lm.Rows, count, temperature, *, model: Model) -> jax.Array:
    """Log-probabilities [M, B, T] of the targets in the first `count` microbatches of rows [M, B, T]; 0 beyond."""
    return microbatch.each(lambda micro: score(policy, micro, temperature, model=model).logp, rows, count)


def token_scores(x_BTD, head_DX, targets_BT, temperature, *, layout: Layout) -> tuple[jax.Array, jax.Array]:
    """(log-probability of each target, entropy) from hidden states; the entropy carries no gradient."""
    logp_BTK, entropy_BT = choice_scores(x_BTD, head_DX, targets_BT[..., None], temperature, layout=layout)
    return logp_BTK[..., 0], entropy_BT


def choice_scores(x_BTD, head_DX, ids_BTK, temperature, *, layout: Layout) -> tuple[jax.Array, jax.Array]:
    """The same of K tokens at each place: (log-probabilities [B, T, K], entropy [B, T])."""
    choices = jax.P(*layout.BT, None)
    run = jax.shard_map(
        partial(_in_chunks, tensor=layout.tensor),
        in_specs=(layout.BTD, jax.P(None, layout.tensor), choices, jax.P()),
        out_specs=(choices, layout.BT),
    )
    return run(x_BTD, head_DX, ids_BTK, jnp.asarray(temperature, jnp.float32))


def chunks_of(n: int, vocabulary: int) -> int:
    """In how many equal chunks the logits of n tokens are held, one after another."""
    return next(k for k in range(1, n + 1) if n % k == 0 and n // k * vocabulary <= max(CHUNK, vocabulary))


def _in_chunks(x_BTD, head_DX, ids_BTK, temperature, *, tensor):
    *shape, K = ids_BTK.shape
    n = math.prod(shape)
    x_nD, ids_nK = x_BTD.reshape(n, -1), ids_BTK.reshape(n, K)
    chunks = chunks_of(n, head_DX.shape[1])
    wide_DX = head_DX.astype(jnp.float32)  # so that its gradient is summed over the chunks in float32
    one = partial(_chunk, head_DX=wide_DX, temperature=temperature, tensor=tensor)
    if chunks == 1:
        logp, entropy = one((x_nD, ids_nK))
    else:
        logp, entropy = jax.lax.map(
            jax.checkpoint(one), (x_nD.reshape(chunks, n // chunks, -1), ids_nK.reshape(chunks, -1, K))
        )
    return logp.reshape(ids_BTK.shape), entropy.reshape(shape)


def _chunk(chunk, *, head_DX, temperature, tensor):
    x_nD, ids_nK = chunk
    z_nX = jnp.einsum("nd,dx->nx", x_nD, head_DX.astype(x_nD.dtype), preferred_element_type=jnp.float32) / temperature
    largest = jax.lax.stop_gradient(z_nX.max(-1))
    if tensor:
        largest = jax.lax.pmax(largest, tensor)
        ids_nK = ids_nK - jax.lax.axis_index(tensor) * head_DX.shape[1]
    add = partial(jax.lax.psum, axis_name=tensor) if tensor else lambda v: v
    p_nX = jnp.exp(z_nX - largest[:, None])
    total = add(p_nX.sum(-1))
    here = (ids_nK >= 0) & (ids_nK < head_DX.shape[1])
    z_nK = add(jnp.where(here, jnp.take_along_axis(z_nX, jnp.where(here, ids_nK, 0), -1), 0.0))
    log_total = jnp.log(total) + largest
    entropy = log_total - add((p_nX * z_nX).sum(-1)) / total
    return z_nK - log_total[:, None], jax.lax.stop_gradient(entropy)


def next_token_loss(policy: lm.Policy, batch: Batch, *, model: Model, mtp_weight: float):
    """Weighted negative log-likelihood of one microbatch, plus `mtp_weight` x that of multi-token prediction (V3
    equations 24 and 25) and the sequence-wise balance loss. -> (loss, (sums, loads))."""
    rows, weights = batch.rows, batch.weights
    out = lm.forward(policy, rows, cfg=model.cfg, layout=model.layout, remat=model.remat, mtp=mtp_weight > 0)
    logp, _ = token_scores(out.x_BTD, out.head_DX, rows.targets, 1.0, layout=model.layout)
    nll = -(logp * weights).sum()
    loss, sums = nll, {"loss/next_token": nll}
    if out.mtp_BTD is not None:
        # Position t predicts the target of t + 1, where that one lies in the same sequence.
        after = jax.tree.map(lambda a: _shift(a, model.layout), (rows.targets, rows.segments, weights))
        logp, _ = token_scores(out.mtp_BTD, out.head_DX, after[0], 1.0, layout=model.layout)
        further = -(logp * after[2] * (after[1] == rows.segments)).sum()
        loss, sums = loss + mtp_weight * further, sums | {"loss/mtp": further}
    balance = sum((load.balance_loss.sum() for load in out.loads.values()), jnp.zeros(())) * batch.row_weight
    return loss + balance, (sums | {"loss/balance": balance}, out.loads)


def _shift(a_BT: jax.Array, layout: Layout) -> jax.Array:
    """What stands one position later in the row, 0 at its end."""
    whole = jax.reshard(a_BT, jax.P(layout.rows, None))
    return jax.reshard(jnp.pad(whole[:, 1:], ((0, 0), (0, 1))), layout.BT)
