"""Grouped-query attention (2305.13245) with rotary positions: the dense shape of Qwen2, Qwen3 and Llama 3."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.model import cache as caches
from r1jax.model.attention import cached_attention, packed_attention
from r1jax.model.config import Transformer
from r1jax.model.layers import RmsNorm, Weight, constant, project
from r1jax.model.layout import Layout
from r1jax.model.rope import attention_scale, rotate


class GroupedAttention(nn.Module):
    cfg: Transformer
    layout: Layout

    @nn.compact
    def __call__(self, x_BTD, positions_BT, segments_BT, cache=None):
        """-> (y_BTD, entries) or, with a cache and T = 1, (y_BTD, the cache with this token)."""
        c, a, lay = self.cfg, self.cfg.attention, self.layout

        def heads(name: str, count: int) -> jax.Array:
            weight = Weight((c.width, count, a.head_dim), ("store", "tensor", ""), c.init_std, lay, name=name)()
            y = project(x_BTD, weight, lay.BTHK)
            if a.bias:
                bias = self.param(
                    f"{name}_bias", constant(0.0, lay.used("tensor", "")), (count, a.head_dim), jnp.float32
                )
                y = y + bias.astype(y.dtype)
            return y

        q, k, v = heads("q", a.heads), heads("k", a.kv_heads), heads("v", a.kv_heads)
        if a.qk_norm:
            q, k = RmsNorm(c.norm_eps, name="q_norm")(q), RmsNorm(c.norm_eps, name="k_norm")(k)
        q, k = rotate(q, positions_BT[:, :, None], c.rope), rotate(k, positions_BT[:, :, None], c.rope)
        out_HVD = Weight((a.heads, a.head_dim, c.width), ("tensor", "", "store"), c.init_std, lay, name="o")()
        scale = attention_scale(c.rope, a.head_dim)
        entries = {"k": k, "v": v}
        if cache is None:
            whole = {name: jax.reshard(entry, lay.BSHK) for name, entry in entries.items()}
            y = packed_attention(q, whole["k"], whole["v"], segments_BT, scale, lay)
            return project(y, out_HVD, lay.BTD, contracted=2), entries
        entries = caches.write(cache, entries, positions_BT[:, 0])
        y = cached_attention(q[:, 0], entries["k"], entries["v"], positions_BT[:, 0], scale)
        return project(y[:, None], out_HVD, lay.BTD, contracted=2), entries
