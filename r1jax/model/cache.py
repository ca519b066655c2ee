"""The cache of one layer: a dict of arrays [B, S, ...], the latent of MLA or the keys and values of GQA.

`entries` are the same dict for new tokens, [B, T, ...]. Every function keeps the arrays' sharding; writing is local to
a row, so it runs inside `shard_map`.
"""

from functools import partial

import jax
import jax.numpy as jnp

Entries = dict[str, jax.Array]


def empty(entries: Entries, rows: int, slots: int) -> Entries:
    """A cache of zeros [rows, slots, ...] with the trailing dimensions, dtypes and shardings of `entries`."""

    def zeros(entry):
        return jnp.zeros((rows, slots, *entry.shape[2:]), entry.dtype, out_sharding=jax.typeof(entry).sharding.spec)

    return jax.tree.map(zeros, entries)


def write(cache: Entries, entries: Entries, positions_B: jax.Array) -> Entries:
    """Row b's new entries [B, T, ...] at slots positions_B[b], positions_B[b] + 1, ..."""

    def one(cache_BS, entry_BT):
        spec = jax.typeof(cache_BS).sharding.spec
        put = jax.shard_map(_put, in_specs=(spec, spec, jax.P(spec[0])), out_specs=spec)
        return put(cache_BS, entry_BT, positions_B)

    return jax.tree.map(one, cache, entries)


@partial(jax.vmap, in_axes=0)
def _put(cache_S, entry_T, position):
    start = (position,) + (0,) * (cache_S.ndim - 1)
    return jax.lax.dynamic_update_slice(cache_S, entry_T.astype(cache_S.dtype), start)
