"""The reward model's values, losses and their gradients: the same on every mesh, in any number of microbatches and
however packed, and equal to their formulas in float64."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from r1jax import collate
from r1jax.base.mesh import Mesh
from r1jax.learn import preference, scorer
from r1jax.learn.likelihood import Model
from r1jax.learn.optim import AdamW
from r1jax.learn.state import LabelledBatch, State
from r1jax.learn.update import init, update
from r1jax.model import lm
from r1jax.model.layout import Layout

SIZES = (9, 6, 3, 8, 5, 2, 4, 4, 7, 1, 2, 2, 6, 3, 10, 6)  # of eight pairs, or of sixteen responses
OPTIMIZER = AdamW(learning_rate=0.1, eps=1e-3, clip=0.5)  # as in test_update
LOSSES = {"pairwise": (preference.pairwise, 2), "pointwise": (preference.pointwise, 1)}
ONE = (Mesh(), 8, 1, 16)  # mesh, microbatches, rows, row length: on one device, a row at a time
SPLITS = [
    ("pairwise", (Mesh(), 1, 8, 32)),  # several pairs in a row
    ("pairwise", (Mesh(expert=2, tensor=2, context=2), 1, 4, 32)),
    ("pointwise", (Mesh(fsdp=2, expert=2, context=2), 2, 4, 16)),
]


def sequences() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, small.X, size) for size in SIZES]


def labels(loss: str) -> np.ndarray:
    return np.tile([1.0, -1.0], 8) if loss == "pairwise" else (np.arange(16) % 3 == 0).astype(np.float64)


def batch_for(loss: str, layout: Layout, microbatches: int, rows: int, length: int) -> tuple[LabelledBatch, jax.Array]:
    packed, places = collate.pack(sequences(), length, together=LOSSES[loss][1])
    weights, marks = np.zeros(packed["tokens"].shape, np.float32), np.zeros(packed["tokens"].shape, np.float32)
    for index, row, column, _ in places:
        weights[row, column + SIZES[index] - 1] = 1 / 16
        marks[row, column + SIZES[index] - 1] = labels(loss)[index]
    stacked, count = collate.stack(packed | {"weights": weights, "labels": marks}, microbatches, rows)
    put = lambda name: collate.put(stacked[name], collate.spec(stacked[name], layout))  # noqa: E731
    batch = LabelledBatch(
        rows=collate.put_rows(stacked, layout),
        weights=put("weights"),
        labels=put("labels"),
        row_weight=collate.put(np.float32(0), jax.P()),
    )
    return batch, collate.put(np.int32(count), jax.P())


def trained(layout: Layout) -> lm.Policy:
    """A scorer whose every part matters, its head as well."""
    return small.draw(scorer.shapes(small.MOE, layout), 0.3)


@cache
def values_of_each() -> tuple[np.ndarray, np.ndarray]:
    """(values [16], hidden states [16, D] of the last token) of the sequences, each alone in its row: float64."""
    packed, places = collate.pack(sequences(), 10)
    assert len(packed["tokens"]) < 16
    alone = {name: np.zeros((16, 10), np.int32) for name in packed}
    for index, sequence in enumerate(sequences()):
        n = len(sequence)
        alone["tokens"][index, :n], alone["targets"][index, : n - 1] = sequence, sequence[1:]
        alone["positions"][index, :n], alone["segments"][index, :n] = range(n), 1
    with small.on(Mesh()):
        full = small.draw(jax.eval_shape(lambda: lm.init(jax.random.key(0), small.MOE, small.ONE)), 0.3)
        whole = trained(small.ONE)
        policy = lm.Policy(params=full.params | whole.params, router=full.router | whole.router)
        forward = partial(lm.forward, cfg=small.MOE, layout=small.ONE, remat=False)
        x = np.float64(jax.jit(forward)(policy, collate.put_rows(alone, small.ONE)).x_BTD)
        head = np.float64(whole.params["score"]["w"])
    h = x[np.arange(16), np.array(SIZES) - 1]
    return h @ head, h


@cache
def step(loss: str, mesh: Mesh, microbatches: int, rows: int, length: int) -> tuple[State, dict]:
    """One optimizer step, as numpy."""
    layout = Layout(mesh)
    optimizer = OPTIMIZER.make(10)
    with small.on(mesh):
        bound = partial(LOSSES[loss][0], model=Model(small.MOE, layout, remat=True))
        run = jax.jit(partial(update, loss=bound, optimizer=optimizer, bias_rate=0.0))
        return jax.device_get(
            run(init(trained(layout), optimizer), *batch_for(loss, layout, microbatches, rows, length))
        )


@pytest.mark.parametrize(("loss", "split"), SPLITS)
def test_a_step_is_the_same_however_it_is_split_and_packed(loss, split):
    """Weights, both moments of the gradient, metrics."""

    def close(path, a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-5 * np.abs(b).max(), err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(close, step(loss, *split), step(loss, *ONE))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_pairwise_by_its_formula():
    """Loss, accuracy, margin and the gradient of the head (its first moment is a tenth of the clipped gradient)."""
    state, metrics = step("pairwise", *ONE)
    r, h = values_of_each()
    margin = r[::2] - r[1::2]
    assert metrics["loss"] == pytest.approx(-np.log(sigmoid(margin)).mean(), rel=1e-4)
    assert metrics["accuracy"] == pytest.approx((margin > 0).mean()) and 0 < metrics["accuracy"] < 1
    assert metrics["margin"] == pytest.approx(margin.mean(), rel=1e-3)
    slope = -(sigmoid(-margin)[:, None] * (h[::2] - h[1::2])).mean(0)
    check_head(state, metrics, slope)


def test_pointwise_by_its_formula():
    state, metrics = step("pointwise", *ONE)
    r, h = values_of_each()
    y = labels("pointwise")
    assert metrics["loss"] == pytest.approx(
        -(y * np.log(sigmoid(r)) + (1 - y) * np.log(1 - sigmoid(r))).mean(), rel=1e-4
    )
    assert metrics["accuracy"] == pytest.approx(((r > 0) == (y == 1)).mean()) and 0 < metrics["accuracy"] < 1
    assert metrics["margin"] == pytest.approx(np.where(y == 1, r, -r).mean(), rel=1e-3)
    check_head(state, metrics, ((sigmoid(r) - y)[:, None] * h).mean(0))


def check_head(state: State, metrics: dict, slope_D: np.ndarray):
    first = next(
        leaf for path, leaf in jax.tree.leaves_with_path(state.optimizer) if "'score'" in jax.tree_util.keystr(path)
    )
    scale = min(1, OPTIMIZER.clip / metrics["grad_norm"])
    np.testing.assert_allclose(first / 0.1 / scale, slope_D, rtol=1e-3, atol=1e-5)


def test_a_fresh_scorer_knows_nothing_and_carries_no_language_head():
    """It scores 0; a pair is as likely either way. The body is the policy's."""
    with small.on(Mesh()):
        policy = small.policy(small.MOE, small.ONE)
        fresh = scorer.of(policy, small.ONE)
        assert jax.tree.structure(fresh) == jax.tree.structure(scorer.shapes(small.MOE, small.ONE))
        model = Model(small.MOE, small.ONE, False)
        batch, _ = batch_for("pairwise", small.ONE, 1, 8, 16)
        micro = jax.tree.map(lambda a: a[0] if a.ndim else a, batch)
        loss, (sums, _) = jax.jit(partial(preference.pairwise, model=model))(fresh, micro)
    gone = {name for name in policy.params if name == "head" or name.startswith("mtp")}
    assert len(gone) > 2 and fresh.params.keys() == policy.params.keys() - gone | {"score"}
    assert fresh.router.keys() == {"layers"}
    assert float(loss) == pytest.approx(np.log(2)) and float(sums["accuracy"]) == 0.5


@pytest.mark.parametrize("mesh", [Mesh(), Mesh(data=2, context=2, tensor=2)], ids=str)
def test_score_all_values_the_ends_of_the_first_microbatches(mesh):
    layout = Layout(mesh)
    with small.on(mesh):
        packed, places = collate.pack(sequences(), 16)
        stacked, _ = collate.stack(packed, 4, 2)
        run = jax.jit(partial(scorer.score_all, model=Model(small.MOE, layout, False)))
        values = np.asarray(run(trained(layout), collate.put_rows(stacked, layout), jnp.int32(2)))
    wanted = values_of_each()[0]
    flat = values.reshape(8, 16)
    seen = 0
    for index, row, column, _ in places:
        if row < 4:
            assert flat[row, column + SIZES[index] - 1] == pytest.approx(wanted[index], rel=1e-4, abs=1e-4)
            seen += 1
    assert 0 < seen < 16 and not values[2:].any()


def test_pairs_stay_together():
    """The two of a pair are neighbours in one row, the first with an odd number, whatever else is there."""
    packed, places = collate.pack(sequences(), 20, together=2)
    where = {index: (row, column, segment) for index, row, column, segment in places}
    assert max(segment for _, _, segment in where.values()) >= 4  # rows with two pairs
    for first in range(0, 16, 2):
        row, column, segment = where[first]
        assert where[first + 1] == (row, column + SIZES[first], segment + 1) and segment % 2 == 1
        np.testing.assert_array_equal(packed["tokens"][row, column : column + SIZES[first]], sequences()[first])
