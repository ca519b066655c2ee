"""Multi-head latent attention (DeepSeek-V3, 2412.19437, equations 1 to 11).

Keys and values are linear in a latent c of C numbers, and one rotated key of R numbers is shared by all heads:

    c = norm(W_DKV x)    k_h = [W_UK,h c ; rope(W_KR x)]    v_h = W_UV,h c    q_h = [W_UQ,h q ; rope(W_QR,h q)]

Training expands k and v; over `context` the latent is gathered, not k and v. Decoding absorbs W_UK into the query and
W_UV into the output, so that attention runs on the cached latent itself (C + R numbers a token).
Trap: the norm covers the C numbers alone, not the rotated key.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.model import cache as caches
from r1jax.model.attention import cached_attention, packed_attention
from r1jax.model.config import Transformer
from r1jax.model.layers import RmsNorm, Weight, project
from r1jax.model.layout import Layout
from r1jax.model.rope import attention_scale, rotate


class LatentAttention(nn.Module):
    cfg: Transformer
    layout: Layout

    @nn.compact
    def __call__(self, x_BTD, positions_BT, segments_BT, cache=None):
        """-> (y_BTD, entries) or, with a cache and T = 1, (y_BTD, the cache with this token)."""
        c, a, lay = self.cfg, self.cfg.attention, self.layout
        D, H, K, R, V, C, Q = c.width, a.heads, a.nope_dim, a.rope_dim, a.value_dim, a.kv_rank, a.query_rank
        weight = lambda name, shape, *dims: Weight(shape, dims, c.init_std, lay, name=name)()  # noqa: E731

        if Q is None:
            q_BTHK = project(x_BTD, weight("q", (D, H, K + R), "store", "tensor", ""), lay.BTHK)
        else:
            q_BTQ = RmsNorm(c.norm_eps, name="q_norm")(project(x_BTD, weight("q_a", (D, Q), "store", ""), lay.BTD))
            q_BTHK = project(q_BTQ, weight("q_b", (Q, H, K + R), "store", "tensor", ""), lay.BTHK)
        q_BTHR = rotate(q_BTHK[..., K:], positions_BT[:, :, None], c.rope)
        latent_BTC = project(x_BTD, weight("kv_a", (D, C + R), "store", ""), lay.BTD)
        k_BTR = rotate(latent_BTC[..., C:], positions_BT, c.rope)
        latent_BTC = RmsNorm(c.norm_eps, name="kv_norm")(latent_BTC[..., :C])
        entries = {"latent": jnp.concatenate([latent_BTC, k_BTR], axis=-1)}
        kv_CHK = weight("kv_b", (C, H, K + V), "store", "tensor", "")
        out_HVD = weight("o", (H, V, D), "tensor", "", "store")
        scale = attention_scale(c.rope, K + R)

        if cache is None:
            latent_BSC = jax.reshard(entries["latent"], lay.BSC)
            kv_BSHK = project(latent_BSC[..., :C], kv_CHK, lay.BSHK)
            k_BSHR = jnp.broadcast_to(latent_BSC[:, :, None, C:], (*kv_BSHK.shape[:3], R))
            k_BSHK = jnp.concatenate([kv_BSHK[..., :K], jax.reshard(k_BSHR, lay.BSHK)], axis=-1)
            q_BTHK = jnp.concatenate([q_BTHK[..., :K], q_BTHR], axis=-1)
            y_BTHV = packed_attention(q_BTHK, k_BSHK, kv_BSHK[..., K:], segments_BT, scale, lay)
            return project(y_BTHV, out_HVD, lay.BTD, contracted=2), entries

        latents = caches.write(cache, entries, positions_BT[:, 0])
        q_BHC = jnp.einsum("bhk,chk->bhc", q_BTHK[:, 0, :, :K], kv_CHK[..., :K])
        q_BHC = jnp.concatenate([q_BHC, q_BTHR[:, 0]], axis=-1)
        latent_BSJC = latents["latent"][:, :, None]
        y_BHC = cached_attention(q_BHC, latent_BSJC, latent_BSJC[..., :C], positions_BT[:, 0], scale)
        y_BHV = jnp.einsum("bhc,chv->bhv", y_BHC, kv_CHK[..., K:])
        return project(y_BHV[:, None], out_HVD, lay.BTD, contracted=2), latents
