"""The small layers: root-mean-square norm, projection, gated feed-forward, embedding."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from r1jax.model.config import Transformer
from r1jax.model.layout import Layout


def normal(std: float, spec: jax.P):
    """Initialiser: a normal of the given standard deviation, born sharded as `spec`."""
    return lambda key, shape, dtype: std * jax.random.normal(key, shape, dtype, out_sharding=spec)


def constant(value: float, spec: jax.P):
    """Initialiser: one value everywhere, born sharded as `spec`."""
    return lambda key, shape, dtype: jnp.full(shape, value, dtype, out_sharding=spec)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * scale over the last dimension, in float32."""
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + eps) * scale).astype(x.dtype)


class RmsNorm(nn.Module):
    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, self.param("scale", constant(1.0, jax.P(None)), x.shape[-1:], jnp.float32), self.eps)


def project(x: jax.Array, w: jax.Array, spec: jax.P, *, contracted: int = 1, precision=None) -> jax.Array:
    """x [B, T, *I] times w [*I, *O] -> [B, T, *O] laid out as `spec`; I are the first `contracted` dimensions of w.

    Where T is not sharded, B and T are folded into one axis and the product is one
    matrix product: its gradients are 1.7 to 3.4 times faster on CPU.
    """
    B, T = x.shape[:2]
    outer = w.shape[contracted:]
    w = w.reshape(int(np.prod(w.shape[:contracted])), -1)
    x = x.reshape(B, T, -1)
    if jax.typeof(x).sharding.spec[1] is None:
        folded = jax.P(spec[0], spec[2]) if len(spec) > 2 else jax.P(spec[0], None)
        y = jnp.einsum("ni,io->no", x.reshape(B * T, -1), w, precision=precision, out_sharding=folded)
        y = y.reshape(B, T, -1)
    else:
        y = jnp.einsum("bti,io->bto", x, w, precision=precision, out_sharding=jax.P(*spec[:3]))
    return y.reshape(B, T, *outer)


class Weight(nn.Module):
    """One weight matrix: stored sharded, returned gathered for use. `dims` names each dimension's role in the
    Layout."""

    shape: tuple[int, ...]
    dims: tuple[str, ...]
    std: float
    layout: Layout

    @nn.compact
    def __call__(self) -> jax.Array:
        stored = self.param("w", normal(self.std, self.layout.stored(*self.dims)), self.shape, jnp.float32)
        return jax.reshard(stored.astype(self.layout.dtype), self.layout.used(*self.dims))


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate x) * up x), of width F."""

    cfg: Transformer
    width: int
    layout: Layout

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        c, lay, D, F = self.cfg, self.layout, self.cfg.width, self.width
        gate_DF = Weight((D, F), ("store", "tensor"), c.init_std, lay, name="gate")()
        up_DF = Weight((D, F), ("store", "tensor"), c.init_std, lay, name="up")()
        down_FD = Weight((F, D), ("tensor", "store"), c.init_std, lay, name="down")()
        h_BTF = jax.nn.silu(project(x_BTD, gate_DF, lay.BTF)) * project(x_BTD, up_DF, lay.BTF)
        return project(h_BTF, down_FD, lay.BTD)
