"""The loop over the microbatches of a batch, arrays [M, ...]: only those that hold tokens are computed.

Their number is traced, so a batch that packs into fewer rows takes less time without a recompilation.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def take(batch: Tree, index: jax.Array | int) -> Tree:
    """Microbatch `index` of a batch; scalars belong to the batch as a whole."""
    return jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, index, keepdims=False) if a.ndim else a, batch)


def each(function: Callable[[Tree], Tree], batch: Tree, count: jax.Array) -> Tree:
    """function(microbatch) of the first `count` microbatches, arrays [M, ...]; 0 beyond."""
    M = jax.tree.leaves(batch)[0].shape[0]

    def body(i, out):
        put = lambda all_, one: jax.lax.dynamic_update_index_in_dim(all_, one, i, 0)  # noqa: E731
        return jax.tree.map(put, out, function(take(batch, i)))

    return jax.lax.fori_loop(0, count, body, _zeros(function, batch, (M,)))


def total(function: Callable[[Tree], Tree], batch: Tree, count: jax.Array) -> Tree:
    """The sum of function(microbatch) over the first `count` microbatches."""
    add = lambda i, sums: jax.tree.map(jnp.add, sums, function(take(batch, i)))  # noqa: E731
    return jax.lax.fori_loop(0, count, add, _zeros(function, batch, ()))


def _zeros(function: Callable[[Tree], Tree], batch: Tree, leading: tuple[int, ...]) -> Tree:
    """What the function returns, all 0, with these axes before."""
    shapes = jax.eval_shape(lambda: function(take(batch, 0)))
    spec = lambda s: jax.P(*(None,) * len(leading), *s.sharding.spec)  # noqa: E731
    return jax.tree.map(lambda s: jnp.zeros((*leading, *s.shape), s.dtype, out_sharding=spec(s)), shapes)
