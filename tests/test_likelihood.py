"""Chunked log-probabilities and the pretraining loss against the same sums in float64 numpy."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from r1jax import collate
from r1jax.base.mesh import Mesh
from r1jax.learn import likelihood
from r1jax.learn.likelihood import Model, next_token_loss, score, score_all, token_scores
from r1jax.learn.state import Batch
from r1jax.model import lm
from r1jax.model.layout import Layout

B, T, D, X = 4, 6, 5, 14
TEMPERATURE = 0.6
MESHES = {"one device": Mesh(), "tensor": Mesh(tensor=2), "all": Mesh(data=2, context=2, tensor=2)}


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def head_case():
    """Hidden states, head, targets, and what the log-probabilities weigh in the loss. The logits reach about 40: exp
    alone would lose them."""
    rng = np.random.default_rng(0)
    x, head = rng.normal(0, 3, (B, T, D)).astype(np.float32), rng.normal(0, 3, (D, X)).astype(np.float32)
    return x, head, rng.integers(0, X, (B, T)), rng.normal(size=(B, T)).astype(np.float32)


@pytest.mark.parametrize("chunk", [2**22, 6 * X // 2, 1], ids=["one chunk", "some chunks", "chunks of one token"])
@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_token_scores(mesh, chunk, monkeypatch):
    monkeypatch.setattr(likelihood, "CHUNK", chunk)
    layout = Layout(mesh)
    x, head, targets, weights = head_case()

    def loss(x, head, targets, weights):
        logp, entropy = token_scores(x, head, targets, TEMPERATURE, layout=layout)
        return (weights * (logp + entropy)).sum(), (logp, entropy)  # the entropy carries no gradient

    with small.on(mesh):
        args = (
            collate.put(x, layout.BTD),
            collate.put(head, jax.P(None, layout.tensor)),
            collate.put(targets.astype(np.int32), layout.BT),
            collate.put(weights, layout.BT),
        )
        slopes, (logp, entropy) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(*args)
    log_p = log_softmax(np.float64(x) @ np.float64(head) / TEMPERATURE)
    p, hit = np.exp(log_p), np.eye(X)[targets]
    np.testing.assert_allclose(logp, (log_p * hit).sum(-1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(entropy, -(p * log_p).sum(-1), rtol=1e-4, atol=1e-5)
    slope_z = weights[..., None] * (hit - p) / TEMPERATURE
    np.testing.assert_allclose(slopes[0], slope_z @ head.T, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(slopes[1], np.einsum("btd,btx->dx", x, slope_z), rtol=1e-4, atol=1e-4)


def test_chunks_are_the_largest_array(monkeypatch):
    """Neither the loss nor its gradient ever holds the logits of all tokens."""
    x, head, targets, _ = head_case()
    loss = lambda x, head: token_scores(x, head, targets, 1.0, layout=small.ONE)[0].sum()  # noqa: E731
    with small.on(Mesh()):
        text = lambda: str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(x, head))  # noqa: E731
        assert f"f32[{B * T},{X}]" in text()
        monkeypatch.setattr(likelihood, "CHUNK", 6 * X)
        assert f"f32[{B * T},{X}]" not in text() and f"f32[6,{X}]" in text()


def test_the_head_learns_in_float32(monkeypatch):
    """Of bfloat16 activations its gradient is as good in many chunks as in one: they are summed in float32."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(1, 4096, 16)) + 1).astype(np.float32)  # the mean of real hidden states is not 0 either
    head = rng.normal(0, 0.05, (16, 32)).astype(np.float32)
    targets = rng.integers(0, 32, (1, 4096)).astype(np.int32)

    def slope(dtype):
        def loss(head):
            return token_scores(jnp.asarray(x, dtype), head.astype(dtype), targets, 1.0, layout=small.ONE)[0].sum()

        with small.on(Mesh()):
            return np.asarray(jax.jit(jax.grad(loss))(head))

    exact, away = slope("float32"), {}
    for chunks in (1, 1024):
        monkeypatch.setattr(likelihood, "CHUNK", 4096 // chunks * 32)
        away[chunks] = np.linalg.norm(slope("bfloat16") - exact) / np.linalg.norm(exact)
    assert away[1024] < 1.5 * away[1]


def test_the_embedding_learns_in_float32():
    """A frequent token's row is summed in float32, although its values are bfloat16."""
    layout = Layout(Mesh(), "bfloat16")
    ones = jnp.ones((1, 8), jnp.int32)
    rows = lm.Rows(ones, jnp.arange(8)[None], ones, ones)
    loss = lambda policy: score(policy, rows, 1.0, model=Model(small.DENSE, layout, False)).logp.sum()  # noqa: E731
    with small.on(Mesh()):
        slope = jax.make_jaxpr(jax.grad(loss))(small.policy(small.DENSE, layout))
    assert re.findall(r":(\w+)\[32,16\] = scatter-add", str(slope)) == ["f32"]


def test_score_all_scores_the_first_microbatches():
    model = Model(small.DENSE, small.ONE, False)
    with small.on(Mesh()):
        policy = small.policy(small.DENSE, small.ONE)
        packed, rows = small.rows(small.DENSE, small.ONE)
        single = jax.jit(partial(score, model=model))(policy, rows, TEMPERATURE).logp
        many = collate.put_rows({name: a.reshape(4, 2, 16) for name, a in packed.items()}, small.ONE)
        scored = jax.jit(partial(score_all, model=model))(policy, many, jnp.int32(3), TEMPERATURE)
        out = jax.jit(partial(lm.forward, cfg=model.cfg, layout=model.layout, remat=False))(policy, rows)
    np.testing.assert_allclose(scored[:3], np.reshape(single, (4, 2, 16))[:3], rtol=1e-5, atol=1e-5)
    assert not np.asarray(scored[3]).any()
    plain = log_softmax(np.float64(out.x_BTD) @ np.float64(out.head_DX) / TEMPERATURE)
    plain = np.take_along_axis(plain, packed["targets"][..., None], -1)[..., 0]
    np.testing.assert_allclose(single, plain, rtol=1e-5, atol=1e-5)


def test_next_token_loss():
    """Three terms: the targets; from the same position, through the further module, the targets' followers, where those
    lie in the same sequence (a sequence's last two tokens have none); the routers' balance, a mean over rows."""
    model = Model(small.MOE, small.ONE, False)
    forward = partial(lm.forward, cfg=model.cfg, layout=model.layout, remat=False, mtp=True)
    with small.on(Mesh()):
        policy = small.policy(small.MOE, small.ONE)
        packed, rows = small.rows(small.MOE, small.ONE)
        live = collate.live(packed)
        weights = np.where(live, np.random.default_rng(0).random(live.shape), 0).astype(np.float32)
        batch = Batch(rows=rows, weights=collate.put(weights, small.ONE.BT), row_weight=jnp.float32(1 / 8))
        loss, (sums, loads) = jax.jit(partial(next_token_loss, model=model, mtp_weight=0.3))(policy, batch)
        out = jax.jit(forward)(policy, rows)
    head = np.float64(out.head_DX)
    log_p, further = (log_softmax(np.float64(x) @ head) for x in (out.x_BTD, out.mtp_BTD))
    tokens, segments = packed["tokens"], packed["segments"]
    wanted = {"loss/next_token": 0.0, "loss/mtp": 0.0}
    for b, t in np.argwhere(segments > 0):
        same = [k < 16 and segments[b, k] == segments[b, t] for k in (t + 1, t + 2)]
        if same[0]:
            wanted["loss/next_token"] -= weights[b, t] * log_p[b, t, tokens[b, t + 1]]
        if same[1]:
            wanted["loss/mtp"] -= weights[b, t + 1] * further[b, t, tokens[b, t + 2]]
    wanted["loss/balance"] = sum(np.asarray(load.balance_loss).sum() for load in loads.values()) / 8
    assert {name: float(value) for name, value in sums.items()} == pytest.approx(wanted, rel=1e-5)
    assert min(wanted.values()) > 0.01
    total = wanted["loss/next_token"] + 0.3 * wanted["loss/mtp"] + wanted["loss/balance"]
    assert float(loss) == pytest.approx(total, rel=1e-5)
