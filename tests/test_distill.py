"""Distillation from a teacher's logits: the divergence against its formula in float64, on every mesh."""

from functools import partial

import jax
import numpy as np
import pytest
import small

from r1jax import collate
from r1jax.base.mesh import Mesh
from r1jax.learn import distill
from r1jax.learn.likelihood import Model, next_token_loss
from r1jax.learn.state import Batch
from r1jax.model import lm
from r1jax.model.layout import Layout

B, T, D, X = 4, 6, 5, 14
MESHES = {"one device": Mesh(), "tensor": Mesh(tensor=2), "all": Mesh(data=2, context=2, tensor=2)}


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_the_likeliest_tokens(mesh):
    rng = np.random.default_rng(0)
    x, head = rng.normal(size=(B, T, D)).astype(np.float32), rng.normal(size=(D, X)).astype(np.float32)
    layout = Layout(mesh)
    with small.on(mesh):
        args = collate.put(x, layout.BTD), collate.put(head, jax.P(None, layout.tensor))
        ids, logp = jax.jit(partial(distill.likeliest, top=3, layout=layout))(*args)
    z = np.float64(x) @ np.float64(head)
    wanted = np.argsort(-z, -1)[..., :3]
    np.testing.assert_array_equal(ids, wanted)
    total = np.log(np.exp(z).sum(-1, keepdims=True))
    np.testing.assert_allclose(logp, np.take_along_axis(z - total, wanted, -1), rtol=1e-5, atol=1e-5)


def batch_on(layout: Layout) -> tuple[Batch, jax.Array]:
    packed, _ = small.rows(small.DENSE, small.ONE)
    rows = {name: a[None] for name, a in packed.items()}
    live = collate.live(rows)
    weights = (live / live.sum()).astype(np.float32)
    placed = collate.put_rows(rows, layout)
    return (
        Batch(
            rows=placed,
            weights=collate.put(weights, collate.spec(weights, layout)),
            row_weight=collate.put(np.float32(1 / len(packed["tokens"])), jax.P()),
        ),
        collate.put(np.int32(1), jax.P()),
    )


def logits(params, layout: Layout, mesh: Mesh) -> np.ndarray:
    """The logits [B, T, X] of a policy with these parameters at the tokens of `batch_on`, float64."""
    with small.on(mesh):
        policy = lm.Policy(params, small.policy(small.DENSE, layout).router)
        rows = jax.tree.map(lambda a: a[0], batch_on(layout)[0].rows)
        run = partial(lm.forward, cfg=small.DENSE, layout=layout, remat=False)
        out = jax.jit(lambda p: (lambda o: (o.x_BTD, o.head_DX))(run(p, rows)))(policy)
    return np.float64(out[0]) @ np.float64(out[1])


def learn(mesh: Mesh, top: int, share: float):
    """(loss, gradient, sums) of a student against a teacher of the same shape."""
    layout = Layout(mesh)
    model = Model(small.DENSE, layout, False)
    with small.on(mesh):
        student = small.policy(small.DENSE, layout)
        teacher = lm.Policy(jax.tree.map(lambda w: 0.7 * w, student.params), student.router)
        batch, count = batch_on(layout)
        lesson = jax.jit(partial(distill.lesson, model=model, top=top))(teacher, batch, count)
        micro = jax.tree.map(lambda a: a[0] if a.ndim else a, lesson)

        def loss(params):
            return distill.forward_kl(lm.Policy(params, student.router), micro, model=model, share=share)

        (value, (sums, _)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(student.params)
        return float(value), jax.device_get(grads), jax.device_get(sums)


@pytest.mark.parametrize("top", [4, small.DENSE.vocabulary - 1])
def test_the_divergence_is_its_formula(top):
    with small.on(Mesh()):
        student = small.policy(small.DENSE, small.ONE).params
        batch, _ = batch_on(small.ONE)
        weights = np.float64(batch.weights)[0]
    logp, logq = (
        z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True)) - z.max(-1, keepdims=True)
        for z in (
            logits(jax.tree.map(lambda w: 0.7 * w, student), small.ONE, Mesh()),
            logits(student, small.ONE, Mesh()),
        )
    )
    ids = np.argsort(-logp, -1)[..., :top]
    p, q = (np.exp(np.take_along_axis(a, ids, -1)) for a in (logp, logq))
    rest_p, rest_q = (np.maximum(1 - a.sum(-1), 1e-6) for a in (p, q))
    wanted = (weights * ((p * np.log(p / q)).sum(-1) + rest_p * np.log(rest_p / rest_q))).sum()
    value, _, sums = learn(Mesh(), top, 1.0)
    assert value == pytest.approx(wanted, rel=1e-4) and sums["loss/divergence"] == pytest.approx(wanted, rel=1e-4)
    assert wanted > 0.01


def test_it_is_the_same_on_every_mesh():
    value, grads, _ = learn(Mesh(), 4, 0.5)
    for mesh in (Mesh(data=2, tensor=2), Mesh(fsdp=2, context=2, tensor=2)):
        other, others, _ = learn(mesh, 4, 0.5)
        assert other == pytest.approx(value, rel=1e-5)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-3, atol=1e-5), others, grads)


def test_the_rest_of_the_share_is_the_next_token_loss():
    with small.on(Mesh()):
        batch, _ = batch_on(small.ONE)
        micro = jax.tree.map(lambda a: a[0] if a.ndim else a, batch)
        model = Model(small.DENSE, small.ONE, False)
        plain, _ = jax.jit(partial(next_token_loss, model=model, mtp_weight=0.0))(
            small.policy(small.DENSE, small.ONE), micro
        )
    value, _, sums = learn(Mesh(), 4, 0.25)
    assert sums["loss/next_token"] == pytest.approx(float(plain), rel=1e-5)
    assert value == pytest.approx(0.25 * sums["loss/divergence"] + 0.75 * float(plain), rel=1e-5)


def test_a_student_that_thinks_like_its_teacher_has_nothing_to_learn():
    layout, model = small.ONE, Model(small.DENSE, small.ONE, False)
    with small.on(Mesh()):
        student = small.policy(small.DENSE, layout)
        batch, count = batch_on(layout)
        lesson = jax.jit(partial(distill.lesson, model=model, top=4))(student, batch, count)
        micro = jax.tree.map(lambda a: a[0] if a.ndim else a, lesson)
        loss = lambda p: distill.forward_kl(lm.Policy(p, student.router), micro, model=model, share=1.0)[0]  # noqa: E731
        value, grads = jax.jit(jax.value_and_grad(loss))(student.params)
    assert float(value) == pytest.approx(0, abs=1e-5)
    assert max(float(np.abs(g).max()) for g in jax.tree.leaves(grads)) < 1e-4
