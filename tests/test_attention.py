"""Attention in query blocks, in packed rows and over a cache: the same numbers as plain attention."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from r1jax import collate
from r1jax.base.mesh import Mesh
from r1jax.model import attention, cache, lm
from r1jax.model.config import Rope
from r1jax.model.layout import Layout
from r1jax.model.rope import rotate

B, T, H, J, K, V = 2, 16, 4, 2, 6, 3
SCALE = 0.4
SEGMENTS = np.array([[1] * 7 + [2] * 9, [1] * 3 + [2] * 2 + [3] * 8 + [0] * 3], np.int32)
MODELS = {"latent, experts": small.MOE, "grouped, dense": small.DENSE}


def plain(q, k, v):
    """One query at a time, in float64."""
    y = np.zeros((B, T, H, V))
    for b, t, h in np.ndindex(B, T, H):
        seen = (SEGMENTS[b] == SEGMENTS[b, t]) & (np.arange(T) <= t)
        scores = np.float64(k[b, seen, h // (H // J)]) @ q[b, t, h] * SCALE
        weights = np.exp(scores - scores.max())
        y[b, t, h] = weights / weights.sum() @ v[b, seen, h // (H // J)]
    return y


@pytest.mark.parametrize("mesh", [Mesh(), Mesh(data=2, context=2, tensor=2)], ids=str)
def test_query_blocks(mesh, monkeypatch):
    """Blocks of 4 queries give what one block gives, and its gradient; both what single queries give."""
    rng = np.random.default_rng(0)
    q, k, v, c = (
        rng.normal(0, 2, s).astype(np.float32) for s in ((B, T, H, K), (B, T, J, K), (B, T, J, V), (B, T, H, V))
    )
    layout = Layout(mesh)

    def run(block):
        monkeypatch.setattr(attention, "QUERY_BLOCK", block)

        def total(q, k, v, c, segments):
            y = attention.packed_attention(q, k, v, segments, SCALE, layout)
            return (y * c).sum(), y

        specs = layout.BTHK, layout.BSHK, layout.BSHK, layout.BTHK, layout.BT
        args = [collate.put(a, spec) for a, spec in zip((q, k, v, c, SEGMENTS), specs, strict=True)]
        grad = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))
        assert ("scan" in str(grad.trace(*args).jaxpr)) == (block < T)
        return grad(*args)

    with small.on(mesh):
        (slopes, y), (blocked_slopes, blocked_y) = run(1024), run(4)
    np.testing.assert_allclose(y, plain(q, k, v), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(blocked_y, y, rtol=1e-4, atol=1e-5)
    for a, b in zip(blocked_slopes, slopes, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


@partial(jax.jit, static_argnames="cfg")
def hidden(policy, rows, cfg):
    return lm.forward(policy, rows, cfg=cfg, layout=small.ONE, remat=False).x_BTD


@pytest.mark.parametrize("cfg", MODELS.values(), ids=MODELS)
def test_packed_sequences_do_not_see_each_other(cfg):
    """15 sequences in 8 rows, and the same ones in a row each."""
    with small.on(Mesh()):
        policy = small.policy(cfg, small.ONE)
        packed, rows = small.rows(cfg, small.ONE)
        together = np.asarray(hidden(policy, rows, cfg))
        places = [(b, s) for b in range(8) for s in range(1, packed["segments"][b].max() + 1)]
        assert len(places) == 15
        for start in (0, 8):
            alone = {name: np.zeros((8, 16), np.int32) for name in packed}
            for row, (b, s) in enumerate(places[start : start + 8]):
                cells = packed["segments"][b] == s
                for name, values in packed.items():
                    alone[name][row, : cells.sum()] = values[b, cells]
            apart = np.asarray(hidden(policy, collate.put_rows(alone, small.ONE), cfg))
            for row, (b, s) in enumerate(places[start : start + 8]):
                cells = packed["segments"][b] == s
                np.testing.assert_allclose(apart[row, : cells.sum()], together[b, cells], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cfg", MODELS.values(), ids=MODELS)
def test_decoding_equals_scoring(cfg):
    """Prompts of 1 to 8 tokens are prefilled together, then every row is fed on from its own place: the logits are
    those of one pass over whole sequences. For MLA that is attention on the latent against expanded keys and values."""
    rng = np.random.default_rng(0)
    tokens, lengths = rng.integers(0, cfg.vocabulary, (8, T)).astype(np.int32), np.arange(1, 9)
    columns = np.tile(np.arange(T, dtype=np.int32), (8, 1))
    prompt = (columns < lengths[:, None])[:, :8].astype(np.int32)
    run = dict(cfg=cfg, layout=small.ONE)
    with small.on(Mesh()):
        policy, view = small.policy(**run), small.view(**run)
        head = np.asarray(policy.params["embed"]["w"]).T if cfg.tied else np.asarray(policy.params["head"]["w"])
        whole = {"tokens": tokens, "positions": columns, "segments": columns * 0 + 1, "targets": columns * 0}
        wanted = np.asarray(hidden(policy, collate.put_rows(whole, small.ONE), cfg)) @ head

        rows = lm.Rows(*(jnp.asarray(a) for a in (tokens[:, :8], columns[:, :8] * prompt, prompt, prompt * 0)))
        entries = jax.jit(partial(lm.prefill, **run))(view, rows).entries
        start = jnp.zeros(8, jnp.int32)
        held = [
            cache.write(empty, entry, start)
            for empty, entry in zip(lm.empty_cache(entries, 8, T), entries, strict=True)
        ]
        decode = jax.jit(partial(lm.decode, **run), donate_argnums=4)
        for step in range(8):
            at = lengths + step
            fed = jnp.asarray(tokens[np.arange(8), at])
            logits, held = decode(view, fed, jnp.asarray(at, jnp.int32), jnp.ones(8, bool), held)
            np.testing.assert_allclose(logits, wanted[np.arange(8), at], rtol=1e-4, atol=1e-4)
    assert np.abs(wanted).max() > 1


def test_one_row_of_cached_attention_by_hand():
    """Slots beyond a row's own position hold what a longer sample left there, and count for nothing."""
    k = np.array([0.0, np.log(3), 99.0], np.float32).reshape(1, 3, 1, 1)
    v = np.array([2.0, 6.0, 1e6], np.float32).reshape(1, 3, 1, 1)
    y = attention.cached_attention(jnp.ones((1, 1, 1)), jnp.asarray(k), jnp.asarray(v), jnp.array([1]), 1.0)
    assert float(y[0, 0, 0]) == pytest.approx(5.0)  # weights 1/4 and 3/4


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotation_is_a_product_of_complex_numbers(interleaved):
    """Pair k of R/2 turns by position x theta^(-2k/R). Pairs are (0, 1), (2, 3), ... or (0, R/2), (1, R/2 + 1), ..."""
    x, positions = np.random.default_rng(0).normal(size=(5, 6)), np.array([0, 1, 2, 30, 400])
    split = (lambda a: (a[:, 0::2], a[:, 1::2])) if interleaved else (lambda a: (a[:, :3], a[:, 3:]))
    real, imaginary = split(x)
    turned = (real + 1j * imaginary) * np.exp(1j * positions[:, None] * 50.0 ** (-np.arange(3) / 3))
    got = rotate(jnp.float32(x), jnp.asarray(positions), Rope(theta=50.0, interleaved=interleaved))
    for part, wanted in zip(split(np.asarray(got)), (turned.real, turned.imag), strict=True):
        np.testing.assert_allclose(part, wanted, atol=1e-4)  # an angle of 400 is known to 3e-5 in float32
