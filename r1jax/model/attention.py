"""Softmax attention over packed rows, and over a cache with one position per row.

Attention is independent per row, head and query, so it runs inside one `shard_map`: rows over (data, fsdp, expert),
queries over context, heads over tensor, keys whole. Long rows go query block by query block, each rematerialised in the
backward pass, so that no [T, S] array of all of a row ever exists.
"""

from functools import partial

import jax
import jax.numpy as jnp

from r1jax.model.layout import Layout

QUERY_BLOCK = 1024
_NEVER = -1e30  # finite: a row of padding has no key at all, and a softmax over -inf is not a number


def packed_attention(q_BTHK, k_BSJK, v_BSJV, segments_BT, scale: float, layout: Layout) -> jax.Array:
    """Causal attention inside each segment -> [B, T, H, V]. J divides H; segment 0 is padding. S equals T."""
    columns_T = jax.reshard(jnp.arange(segments_BT.shape[1]), jax.P(layout.context))
    segments_BS = jax.reshard(segments_BT, jax.P(layout.rows, None))
    columns_S = jnp.arange(segments_BT.shape[1])
    attend = jax.shard_map(
        partial(_attend_in_blocks, scale=scale),
        in_specs=(
            layout.BTHK,
            layout.BSHK,
            layout.BSHK,
            layout.BT,
            jax.P(layout.rows, None),
            jax.P(layout.context),
            jax.P(None),
        ),
        out_specs=layout.BTHK,
    )
    return attend(q_BTHK, k_BSJK, v_BSJV, segments_BT, segments_BS, columns_T, columns_S)


def _attend_in_blocks(q_BTHK, k_BSJK, v_BSJV, segments_BT, segments_BS, columns_T, columns_S, *, scale):
    def block(q, segments, columns):
        mask_BTS = (segments[:, :, None] == segments_BS[:, None]) & (columns[:, None] >= columns_S)
        return _attend(q, k_BSJK, v_BSJV, mask_BTS, scale)

    B, T, H, _ = q_BTHK.shape
    if T <= QUERY_BLOCK or T % QUERY_BLOCK:
        return block(q_BTHK, segments_BT, columns_T)
    blocks = T // QUERY_BLOCK
    q = q_BTHK.reshape(B, blocks, QUERY_BLOCK, H, -1).swapaxes(0, 1)
    segments = segments_BT.reshape(B, blocks, QUERY_BLOCK).swapaxes(0, 1)
    out = jax.lax.map(lambda args: jax.checkpoint(block)(*args), (q, segments, columns_T.reshape(blocks, -1)))
    return out.swapaxes(0, 1).reshape(B, T, H, -1)


def _attend(q_BTHK, k_BSJK, v_BSJV, mask_BTS, scale):
    B, T, H, K = q_BTHK.shape
    J, V = v_BSJV.shape[2:]
    # Heads before time: the products are then plain matrix products, one per row and head.
    q = q_BTHK.reshape(B, T, J, H // J, K).transpose(0, 2, 3, 1, 4).reshape(B, J, H // J * T, K)
    k, v = k_BSJK.swapaxes(1, 2), v_BSJV.swapaxes(1, 2)
    scores = jnp.einsum("bjnk,bjsk->bjns", q, k, preferred_element_type=jnp.float32) * scale
    scores = jnp.where(mask_BTS[:, None, None], scores.reshape(B, J, H // J, T, -1), _NEVER)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype).reshape(B, J, H // J * T, -1)
    out = jnp.einsum("bjns,bjsv->bjnv", weights, v).reshape(B, J, H // J, T, V)
    return out.transpose(0, 3, 1, 2, 4).reshape(B, T, H, V)


def cached_attention(q_BHK, k_BSJK, v_BSJV, positions_B, scale: float) -> jax.Array:
    """One query per row over the cache slots up to and including its own position -> [B, H, V]."""
    B, H, K = q_BHK.shape
    S, J = k_BSJK.shape[1:3]
    scores = jnp.einsum("bjgk,bsjk->bjgs", q_BHK.reshape(B, J, H // J, K), k_BSJK, preferred_element_type=jnp.float32)
    seen = jnp.arange(S) <= positions_B[:, None]
    weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores * scale, _NEVER), axis=-1).astype(v_BSJV.dtype)
    return jnp.einsum("bjgs,bsjv->bjgv", weights, v_BSJV).reshape(B, H, -1)
