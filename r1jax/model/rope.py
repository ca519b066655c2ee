"""Rotary positions, with YaRN (2309.00071, as DeepSeek-V3 section 4.3 sets it) and Llama 3.1's scaling."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.model.config import Llama3Scaling, Rope, Yarn


def frequencies(rope: Rope, dim: int) -> np.ndarray:
    """Angle per position [dim/2], in float64."""
    base = rope.theta ** (-np.arange(0, dim, 2) / dim)
    match rope.scaling:
        case Yarn() as yarn:

            def turns(n: float) -> float:  # the pair that makes n turns over the original context
                return dim * math.log(yarn.original_context / (n * 2 * math.pi)) / (2 * math.log(rope.theta))

            low, high = max(math.floor(turns(yarn.beta_fast)), 0), min(math.ceil(turns(yarn.beta_slow)), dim - 1)
            ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0, 1)
            return base / yarn.factor * ramp + base * (1 - ramp)
        case Llama3Scaling() as llama:
            waves = llama.original_context * base / (2 * math.pi)  # turns over the original context
            keep = np.clip((waves - llama.low_frequency) / (llama.high_frequency - llama.low_frequency), 0, 1)
            return base * keep + base / llama.factor * (1 - keep)
        case _:
            return base


def _magnitude(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def attention_scale(rope: Rope, dim: int) -> float:
    """Factor on q . k for heads of `dim` numbers: 1/sqrt(dim), times YaRN's squared magnitude."""
    scale = dim**-0.5
    if isinstance(rope.scaling, Yarn):
        scale *= _magnitude(rope.scaling.factor, rope.scaling.mscale_all) ** 2
    return scale


def rotate(x: jax.Array, positions: jax.Array, rope: Rope) -> jax.Array:
    """Rotates the last dimension of x [..., R] by `positions`, which broadcasts against x without that dimension."""
    dim = x.shape[-1]
    angle = positions[..., None].astype(jnp.float32) * frequencies(rope, dim).astype(np.float32)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if isinstance(rope.scaling, Yarn):
        yarn = rope.scaling
        ratio = _magnitude(yarn.factor, yarn.mscale) / _magnitude(yarn.factor, yarn.mscale_all)
        cos, sin = cos * ratio, sin * ratio
    wide = x.astype(jnp.float32)
    if rope.interleaved:
        a, b = wide[..., 0::2], wide[..., 1::2]
        out = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)
    else:
        a, b = wide[..., : dim // 2], wide[..., dim // 2 :]
        out = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
    return out.astype(x.dtype)
