"""The language model: packed rows in, hidden states out; and the three things one does with it.

`forward` trains and scores packed rows. `prefill` and `decode` generate, on a `view` of the same policy: cast, laid out
for decoding and split per layer, since slicing stacked weights inside a loop costs more than the layer's work. All
three are pure functions of a `Policy`, through the same modules.

Training scans the layers, dense ones first, so that 61 layers compile like two.
"""

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from r1jax.model import cache as caches
from r1jax.model.config import Mla, Transformer
from r1jax.model.gqa import GroupedAttention
from r1jax.model.layers import FeedForward, RmsNorm, Weight, project
from r1jax.model.layout import Layout
from r1jax.model.mla import LatentAttention
from r1jax.model.moe import ExpertFeedForward, Load


@flax.struct.dataclass
class Policy:
    """A model's weights. params: moved by the optimizer. router: balancing biases {'layers': [N, E], 'mtp': [E]}."""

    params: dict
    router: dict


@flax.struct.dataclass
class Rows:
    """Packed sequences, each array [B, T] int32. positions count from 0 in each sequence; segments tell the sequences
    of a row apart, 0 is padding; targets are the tokens that follow, 0 where the sequence has ended."""

    tokens: jax.Array
    positions: jax.Array
    segments: jax.Array
    targets: jax.Array


class Output(NamedTuple):
    """x_BTD: normalised hidden states. head_DX: what turns them into logits. mtp_BTD: those of multi-token prediction,
    which predict the token after the target; None without. loads: per layer, {'layers': Load, 'mtp': Load}."""

    x_BTD: jax.Array
    head_DX: jax.Array
    mtp_BTD: jax.Array | None
    loads: dict[str, Load]
    entries: list | None


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)); pre-norm."""

    cfg: Transformer
    layout: Layout
    is_moe: bool

    @nn.compact
    def __call__(self, x_BTD, bias_E, positions_BT, segments_BT, cache):
        c, lay = self.cfg, self.layout
        attention = LatentAttention if isinstance(c.attention, Mla) else GroupedAttention
        y, entries = attention(c, lay, name="attention")(
            RmsNorm(c.norm_eps, name="attention_norm")(x_BTD), positions_BT, segments_BT, cache
        )
        x_BTD = x_BTD + y
        h = RmsNorm(c.norm_eps, name="ffn_norm")(x_BTD)
        if not self.is_moe:
            return x_BTD + FeedForward(c, c.ffn_width, lay, name="ffn")(h), (None, entries)
        y, load = ExpertFeedForward(c, lay, name="ffn")(h, bias_E, segments_BT > 0)
        return x_BTD + y, (load, entries)


class Lm(nn.Module):
    """The whole model. split: parameters are per layer (`view`), not stacked. keep: entries are returned for a
    cache."""

    cfg: Transformer
    layout: Layout
    remat: bool = False
    split: bool = False
    keep: bool = False
    mtp: bool = False

    @nn.compact
    def __call__(self, rows: Rows, router: dict, cache: list | None = None) -> Output:
        c, lay = self.cfg, self.layout
        embed_XD = Weight((c.vocabulary, c.width), ("store", "tensor"), c.init_std, lay, name="embed")()
        # The many gradients of a frequent token's row are summed in float32; sampling has none and copies nothing.
        table_XD = embed_XD if self.split else embed_XD.astype(jnp.float32)

        def embed(tokens_BT):
            x_BTD = table_XD.at[tokens_BT].get(out_sharding=lay.BTF).astype(lay.dtype)
            return jax.reshard(x_BTD, lay.BTD)

        x_BTD, loads, entries = embed(rows.tokens), [], []
        for name, is_moe, first, count in (
            ("dense", False, 0, c.dense_layers),
            ("moe", True, c.dense_layers, c.moe_layers),
        ):
            if count == 0:
                continue
            bias_NE = router["layers"] if is_moe else None
            if self.split:
                for i in range(count):
                    block = Block(c, lay, is_moe, name=f"{name}_{i}")
                    bias_E = None if bias_NE is None else bias_NE[i]
                    layer_cache = None if cache is None else cache[first + i]
                    x_BTD, (load, entry) = block(x_BTD, bias_E, rows.positions, rows.segments, layer_cache)
                    entries.append(entry)
            else:
                x_BTD, load = self._stack(name, is_moe, count)(x_BTD, bias_NE, rows.positions, rows.segments)
                if is_moe:
                    loads.append(load)
        if not c.tied:
            head_DX = Weight((c.width, c.vocabulary), ("store", "tensor"), c.init_std, lay, name="head")()
        else:
            head_DX = jax.reshard(embed_XD.T, jax.P(None, lay.tensor))
        y_BTD = RmsNorm(c.norm_eps, name="norm")(x_BTD)
        out = {"layers": loads[0]} if loads else {}
        mtp_BTD = None
        if c.mtp and (self.mtp or self.is_initializing()):
            mtp_BTD, load = self._predict_further(y_BTD, embed(rows.targets), rows, router)
            out |= {"mtp": load} if load is not None else {}
        return Output(y_BTD, head_DX, mtp_BTD, out, entries if self.keep else None)

    def _stack(self, name: str, is_moe: bool, count: int):
        """The layers of one kind as one scan over stacked parameters: (x, bias_NE, positions, segments) -> (x,
        load)."""

        class Layer(nn.Module):  # what one turn of the scan does: no cache, no entries
            cfg: Transformer
            layout: Layout

            @nn.compact
            def __call__(self, x_BTD, bias_E, positions_BT, segments_BT):
                x_BTD, (load, _) = Block(self.cfg, self.layout, is_moe, name="block")(
                    x_BTD, bias_E, positions_BT, segments_BT, None
                )
                return x_BTD, load

        layer = nn.remat(Layer, prevent_cse=False) if self.remat else Layer
        scan = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=count,
            unroll=count if self.cfg.unroll else 1,
        )
        return scan(self.cfg, self.layout, name=name)

    def _predict_further(self, x_BTD, next_BTD, rows: Rows, router: dict):
        """V3 equations 21 to 23 at depth 1: one more block on [norm(embedding of the target); norm(hidden)].

        Traps: the order of the two (the paper prints the reverse), and the hidden states being those after the final
        norm (it does not say), are how Hugging Face and vLLM run the released weights."""
        c, lay = self.cfg, self.layout
        both = jnp.concatenate(
            [RmsNorm(c.norm_eps, name="mtp_embed_norm")(next_BTD), RmsNorm(c.norm_eps, name="mtp_hidden_norm")(x_BTD)],
            -1,
        )
        w = Weight((2 * c.width, c.width), ("store", ""), c.init_std, lay, name="mtp_project")()
        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        y_BTD, (load, _) = block(c, lay, c.moe is not None, name="mtp_block")(
            project(both, w, lay.BTD), router.get("mtp"), rows.positions, rows.segments, None
        )
        return RmsNorm(c.norm_eps, name="mtp_norm")(y_BTD), load


def init(key: jax.Array, cfg: Transformer, layout: Layout) -> Policy:
    """A fresh policy, born sharded."""
    layout.check(cfg)
    return _init(key, cfg, layout, split=False)


def shapes(cfg: Transformer, layout: Layout) -> Policy:
    """Shapes and shardings of a policy, which is what a restore wants; the mesh of `layout` must be in force."""
    return jax.eval_shape(lambda: init(jax.random.key(0), cfg, layout))


def _init(key: jax.Array, cfg: Transformer, layout: Layout, split: bool) -> Policy:
    shape = (layout.mesh.data * layout.mesh.fsdp * layout.mesh.expert, layout.mesh.context)
    zeros = jnp.zeros(shape, jnp.int32, out_sharding=layout.BT)
    router = _router(cfg)
    params = Lm(cfg, layout, split=split).init(key, Rows(zeros, zeros, zeros, zeros), router)["params"]
    return Policy(params=params, router=router)


def count(policy: Policy) -> int:
    """Parameters, the balancing biases apart."""
    return sum(w.size for w in jax.tree.leaves(policy.params))


def _router(cfg: Transformer) -> dict:
    if cfg.moe is None:
        return {}
    E = cfg.moe.experts
    router = {"layers": jnp.zeros((cfg.moe_layers, E), out_sharding=jax.P())}
    return router | ({"mtp": jnp.zeros((E,), out_sharding=jax.P())} if cfg.mtp else {})


def forward(policy: Policy, rows: Rows, *, cfg: Transformer, layout: Layout, remat: bool, mtp: bool = False) -> Output:
    """Hidden states of packed rows. remat: activations are recomputed layer by layer in the backward pass. mtp:
    multi-token prediction too."""
    lm = Lm(cfg, layout, remat=remat, mtp=mtp)
    return lm.apply({"params": policy.params}, rows, policy.router)


def view(policy: Policy, *, cfg: Transformer, layout: Layout) -> Policy:
    """The policy as decoding wants it: matrices in layout.dtype, per layer, without multi-token prediction.

    It keeps the policy's shardings; `jax.device_put` it where `view_shapes` says."""

    def cast(tree):
        return jax.tree_util.tree_map_with_path(lambda path, w: _cast(path, w, layout.dtype), tree)

    params = {}
    for name, value in policy.params.items():
        if name in ("dense", "moe"):
            for i in range(cfg.dense_layers if name == "dense" else cfg.moe_layers):
                params[f"{name}_{i}"] = cast(jax.tree.map(lambda w, i=i: w[i], value["block"]))
        elif not name.startswith("mtp"):
            params[name] = cast(value)
    return Policy(params=params, router={name: bias for name, bias in policy.router.items() if name != "mtp"})


def _cast(path, w: jax.Array, dtype: str) -> jax.Array:
    return w.astype(dtype) if path[-1].key in ("w", "experts_gate", "experts_up", "experts_down") else w


def view_shapes(cfg: Transformer, layout: Layout) -> Policy:
    """Shapes and shardings of a `view` on the mesh of `layout`, which must be in force."""
    plain = dataclasses.replace(cfg, mtp=0)
    return jax.eval_shape(lambda: _init(jax.random.key(0), plain, layout, split=True))


def prefill(view: Policy, rows: Rows, *, cfg: Transformer, layout: Layout) -> Output:
    """Hidden states and cache entries, a list over layers, of the prompts in `rows`."""
    return Lm(cfg, layout, split=True, keep=True).apply({"params": view.params}, rows, view.router)


def decode(view: Policy, tokens_B, positions_B, live_B, cache: list, *, cfg: Transformer, layout: Layout):
    """One token per row -> (logits [B, X] in float32, the cache with it). Rows that are not live go to no expert."""
    segments = live_B[:, None].astype(jnp.int32)
    rows = Rows(tokens_B[:, None], positions_B[:, None], segments, jnp.zeros_like(segments))
    out = Lm(cfg, layout, split=True, keep=True).apply({"params": view.params}, rows, view.router, cache)
    return logits(out.x_BTD[:, 0], out.head_DX, layout), out.entries


def logits(x_BD: jax.Array, head_DX: jax.Array, layout: Layout) -> jax.Array:
    """Float32 logits [B, X] of hidden states, whole on each device."""
    y = jnp.einsum("bd,dx->bx", x_BD, head_DX, preferred_element_type=jnp.float32)
    return jax.reshard(y, jax.P(jax.typeof(x_BD).sharding.spec[0], None))


def empty_cache(entries: list, rows: int, slots: int) -> list:
    return [caches.empty(entry, rows, slots) for entry in entries]
