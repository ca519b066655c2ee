"""One optimizer step: the same on every mesh and in any number of microbatches; and steps that must not be taken."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small

from r1jax import collate
from r1jax.base.fields import UserError
from r1jax.base.mesh import Mesh
from r1jax.experience import Shape, batch_of
from r1jax.learn import grpo
from r1jax.learn.likelihood import Model, next_token_loss
from r1jax.learn.optim import AdamW
from r1jax.learn.state import Batch, State
from r1jax.learn.update import init, update
from r1jax.model import cost
from r1jax.model.layout import Layout

WINDOW, BIAS_RATE = 8, 0.01
# With the usual eps the sign of a rounding error would move a weight as far as a gradient does.
OPTIMIZER = AdamW(learning_rate=0.1, eps=1e-3, weight_decay=0.1, clip=0.5)
ROUTED = dataclasses.replace(small.MOE, layers=1, mtp=0, moe=dataclasses.replace(small.MOE.moe, dense_layers=0))
HP = grpo.Grpo(kl_weight=0.1, ratio="sequence_token", mask_truncated=True)


def pretraining(policy, micro, model: Model):
    """The loss with every term; the loads are told as well."""
    loss, (sums, loads) = next_token_loss(policy, micro, model=model, mtp_weight=0.3)
    return loss, (sums | {f"load/{name}": load.tokens_E for name, load in loads.items()}, loads)


def learning(policy, micro, model: Model):
    return grpo.loss(policy, micro, hp=HP, model=model)


@cache
def compiled(cfg, loss, mesh: Mesh):
    bound = partial(loss, model=Model(cfg, Layout(mesh), remat=True))
    run = partial(update, loss=bound, optimizer=OPTIMIZER.make(10), bias_rate=BIAS_RATE)
    return jax.jit(run, donate_argnums=0)


def fresh(cfg, mesh: Mesh) -> State:
    return init(small.policy(cfg, Layout(mesh)), OPTIMIZER.make(10))


def batch_for(cfg, loss, mesh: Mesh, microbatches: int) -> tuple[Batch, jax.Array]:
    """Eight packed rows of 16 tokens and their number of microbatches."""
    layout = Layout(mesh)
    if loss is learning:
        shape = Shape(rows=8 // microbatches, length=2 * WINDOW)
        return batch_of(small.experience(0, 16, WINDOW), np.arange(16), shape, HP, 0.9, layout)
    packed, _ = small.rows(cfg, layout)
    packed = {name: a.reshape(microbatches, 8 // microbatches, 16) for name, a in packed.items()}
    live = collate.live(packed)
    weights = (live / live.sum()).astype(np.float32)
    batch = Batch(
        rows=collate.put_rows(packed, layout),
        weights=collate.put(weights, collate.spec(weights, layout)),
        row_weight=collate.put(np.float32(1 / 8), jax.P()),
    )
    return batch, collate.put(np.int32(microbatches), jax.P())


def step(cfg, loss, mesh: Mesh, microbatches: int) -> tuple[State, dict]:
    """One step from the same weights on the same data, as numpy."""
    with small.on(mesh):
        batch, count = batch_for(cfg, loss, mesh, microbatches)
        return jax.device_get(compiled(cfg, loss, mesh)(fresh(cfg, mesh), batch, count))


@cache
def reference(cfg, loss) -> tuple[State, dict]:
    """On one device, in one microbatch."""
    return step(cfg, loss, Mesh(), 1)


def same(got, wanted):
    """Equal but for rounding: against the largest number of each array, as sums are added in another order."""

    def close(path, a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-5 * np.abs(b).max(), err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(close, got, wanted)


def exactly(got, wanted):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(got), wanted)


def test_a_fresh_state_holds_no_buffer_twice():
    """A step donates all of them, and jax refuses to be given one twice."""
    with small.on(Mesh()):
        buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(fresh(small.DENSE, Mesh()))]
    assert len(set(buffers)) == len(buffers)


@pytest.mark.parametrize(
    ("cfg", "loss", "mesh", "microbatches"),
    [
        pytest.param(small.MOE, pretraining, Mesh(fsdp=2, expert=2, tensor=2), 2, id="experts, storage, width"),
        pytest.param(small.MOE, pretraining, Mesh(expert=2, tensor=2, context=2), 4, id="experts, width, context"),
        pytest.param(small.DENSE, learning, Mesh(data=4, fsdp=2), 1, id="dense, rows"),
        pytest.param(small.DENSE, learning, Mesh(fsdp=2, tensor=2, context=2), 2, id="dense, rows, heads, context"),
        pytest.param(small.DENSE, learning, Mesh(), 4, id="dense, one device"),
    ],
)
def test_a_step_is_the_same_however_it_is_split(cfg, loss, mesh, microbatches):
    """Over eight devices and over microbatches: weights, both moments of the gradient, balancing biases, metrics."""
    same(step(cfg, loss, mesh, microbatches), reference(cfg, loss))


@pytest.mark.parametrize(("cfg", "loss"), [(small.MOE, pretraining), (small.DENSE, learning)], ids=["MoE", "dense"])
def test_the_step_that_the_others_are_compared_with(cfg, loss):
    """Every weight moved, and each metric has something to say."""
    state, metrics = reference(cfg, loss)
    with small.on(Mesh()):
        before = small.policy(cfg, small.ONE)
    for path, moved in jax.tree.leaves_with_path(jax.tree.map(lambda a, b: np.abs(a - b).max(), state.policy, before)):
        assert moved > 1e-3, jax.tree_util.keystr(path)
    assert (state.step, state.skipped) == (1, 0)
    assert np.isfinite(metrics["loss"]) and metrics["grad_norm"] > OPTIMIZER.clip
    assert metrics["skipped_in_a_row"] == 0


def test_a_step_tells_what_it_read():
    """All tokens of its sequences, padding not; each attends to itself and those before."""
    ends = {
        pretraining: np.array([16, 15, 14, 9, 9, 8, 8, 7, 6, 5, 5, 4, 3, 2, 1]),
        learning: small.experience(0, 16, WINDOW).ends,
    }
    for cfg, loss in ((small.MOE, pretraining), (small.DENSE, learning)):
        _, metrics = reference(cfg, loss)
        assert (metrics["update/tokens"], metrics["update/keys"]) == cost.sequences(ends[loss])


def test_the_loss_of_pretraining_has_three_terms():
    _, metrics = reference(small.MOE, pretraining)
    parts = metrics["loss/next_token"], 0.3 * metrics["loss/mtp"], metrics["loss/balance"]
    assert metrics["loss"] == pytest.approx(sum(parts), rel=1e-5)
    assert min(parts) > 0.1


def test_the_bias_moves_towards_an_even_load():
    """By gamma, up where an expert had less than the mean, in every layer and in the further module's."""
    state, metrics = reference(small.MOE, pretraining)
    with small.on(Mesh()):
        before = jax.device_get(small.policy(small.MOE, small.ONE).router)
        live = (small.rows(small.MOE, small.ONE)[0]["segments"] > 0).sum()
    for name, bias in before.items():
        load = metrics[f"load/{name}"]
        np.testing.assert_array_equal(load.sum(-1), live * small.MOE.moe.active)
        wanted = bias + BIAS_RATE * np.sign(load.mean(-1, keepdims=True) - load)
        np.testing.assert_allclose(state.policy.router[name], wanted, atol=1e-6)
    load = metrics["load/layers"]
    assert metrics["moe/overload"] == pytest.approx((load.max(-1) / load.mean(-1)).mean(), rel=1e-6)


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted():
    run, mesh = compiled(small.DENSE, learning, Mesh()), Mesh()
    with small.on(mesh):
        good, count = batch_for(small.DENSE, learning, mesh, 1)
        spoiled = (
            good.replace(weights=good.weights.at[0, 3, 5].set(jnp.inf)),
            good.replace(advantages=good.advantages.at[0].set(jnp.nan)),
        )
        before, state = jax.device_get(fresh(small.DENSE, mesh)), fresh(small.DENSE, mesh)
        for skipped, batch in enumerate(spoiled, start=1):
            state, metrics = run(state, batch, count)
            assert not np.isfinite(metrics["grad_norm"])
            assert metrics["skipped_in_a_row"] == skipped
            exactly(state, before.replace(step=skipped, skipped=skipped))
        state, metrics = run(state, good, count)
        assert metrics["skipped_in_a_row"] == 0
        exactly(state, reference(small.DENSE, learning)[0].replace(step=3))


def test_a_step_on_one_repeated_token_is_the_same_on_many_expert_shards():
    """All tokens of all rows go to the same two experts: 64 of a device to each, and there is room for 40."""

    def step_on(mesh):
        layout = Layout(mesh)
        ones = np.ones((1, 16, 32), np.int32)
        packed = {"tokens": 7 * ones, "positions": ones.cumsum(-1) - 1, "segments": ones, "targets": 7 * ones}
        weights = (ones / ones.size).astype(np.float32)
        with small.on(mesh):
            batch = Batch(
                rows=collate.put_rows(packed, layout),
                weights=collate.put(weights, collate.spec(weights, layout)),
                row_weight=collate.put(np.float32(1 / 16), jax.P()),
            )
            run = compiled(ROUTED, pretraining, mesh)
            return jax.device_get(run(fresh(ROUTED, mesh), batch, collate.put(np.int32(1), jax.P())))

    state, metrics = step_on(Mesh(expert=8))
    assert metrics["moe/overload"] == 4  # two of eight experts have everything
    assert (state.step, state.skipped) == (1, 0)
    alone, alone_metrics = step_on(Mesh())
    same((state.policy, metrics), (alone.policy, alone_metrics))  # the gradient of the queries is all rounding


# The optimizer.


def test_the_rate_without_a_warm_up():
    """From the first step on; optax takes a warm-up of no steps for one that never ends."""
    assert [float(AdamW(learning_rate=0.5).rate(10)(i)) for i in (0, 1, 9)] == [0.5, 0.5, 0.5]
    rate = AdamW(learning_rate=0.5, schedule="cosine").rate(10)
    assert float(rate(0)) == 0.5


def test_the_rate_rises_and_falls():
    rate = AdamW(learning_rate=0.5, warmup=4, schedule="cosine", final=0.2).rate(24)
    assert [float(rate(i)) for i in range(5)] == pytest.approx([0, 0.125, 0.25, 0.375, 0.5])
    assert float(rate(14)) == pytest.approx(0.5 * (0.2 + 1) / 2)  # half way down
    assert float(rate(24)) == float(rate(30)) == pytest.approx(0.5 * 0.2)
    assert float(AdamW(learning_rate=0.5, warmup=10).rate(10)(9)) == pytest.approx(0.45)
    with pytest.raises(UserError, match="AdamW.warmup 11 is longer than the run of 10 steps"):
        AdamW(learning_rate=0.5, warmup=11).rate(10)


def test_two_steps_of_adamw_by_its_formula():
    """The gradient is scaled down to a norm of 1; matrices decay, norms and biases do not (1711.05101, algorithm 2)."""
    cfg = AdamW(learning_rate=0.1, b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.3, clip=1.0)
    rng = np.random.default_rng(0)
    params = {name: {key: rng.normal(size=(2, 3)) for key in ("w", "scale", "q_bias")} for name in ("a", "b")}
    gradients = [jax.tree.map(lambda w: rng.normal(size=w.shape), params) for _ in range(2)]

    optimizer, ours = cfg.make(10), jax.tree.map(jnp.float32, params)
    state = optimizer.init(ours)
    for gradient in gradients:
        updates, state = optimizer.update(jax.tree.map(jnp.float32, gradient), state, ours)
        ours = optax.apply_updates(ours, updates)

    m = v = jax.tree.map(np.zeros_like, params)
    for t, g in enumerate(gradients, start=1):
        norm = np.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(g)))
        assert norm > 1
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g / norm, m, g)  # noqa: B023
        v = jax.tree.map(lambda v, g: 0.95 * v + 0.05 * (g / norm) ** 2, v, g)  # noqa: B023
        for name, leaves in params.items():
            for key, w in leaves.items():
                move = m[name][key] / (1 - 0.9**t) / (np.sqrt(v[name][key] / (1 - 0.95**t)) + 1e-8)
                leaves[key] = w - 0.1 * (move + 0.3 * w * (key == "w"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), ours, params)
