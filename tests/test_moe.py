"""The mixture of experts: routing against a plain loop, dispatch against all experts on all tokens."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from r1jax import collate
from r1jax.base.mesh import Mesh
from r1jax.model import moe
from r1jax.model.config import Moe, Transformer
from r1jax.model.layout import Layout

B, T, E = 8, 8, 8
ROUTING = Moe(experts=E, active=2, shared=1, width=8)


def choose(select, m: Moe) -> list[int]:
    """V3's selection for one token: the best experts of the best groups, the very best one first."""
    groups = np.split(np.arange(m.experts), m.groups)
    worth = [np.sort(select[group])[::-1][: 2 if m.select_bias else 1].sum() for group in groups]
    best = np.argsort(worth)[::-1][: m.top_groups]
    allowed = np.concatenate([groups[i] for i in best])
    return list(allowed[np.argsort(select[allowed])[::-1][: m.active]])


def weigh(scores, chosen, m: Moe):
    gates = scores[chosen]
    return m.scale * (gates / gates.sum() if m.renormalise else gates)


ROUTERS = {
    "plain": ROUTING,
    "groups": dataclasses.replace(ROUTING, groups=4, top_groups=2, active=3, scale=2.5),
    "one group": dataclasses.replace(ROUTING, groups=2, top_groups=1, active=4),
    "v2": dataclasses.replace(
        ROUTING, score="softmax", select_bias=False, renormalise=False, groups=4, top_groups=2, scale=16.0
    ),
}


@pytest.mark.parametrize("bias", [0.0, -5.0], ids=["around zero", "negative"])
@pytest.mark.parametrize("m", ROUTERS.values(), ids=ROUTERS)
def test_routing(m, bias):
    """With a bias of -5 every biased score is negative: a group that lost must not win by a mask of zero."""
    rng = np.random.default_rng(0)
    scores = rng.random((B, T, E)).astype(np.float32)
    bias_E = (bias + rng.normal(0, 0.5, E)).astype(np.float32)
    chosen, gates = moe.route(jnp.asarray(scores), jnp.asarray(bias_E), m)
    swayed = 0
    for b, t in np.ndindex(B, T):
        wanted = choose(scores[b, t] + bias_E * m.select_bias, m)
        assert chosen[b, t].tolist() == wanted
        np.testing.assert_allclose(gates[b, t], weigh(np.float64(scores[b, t]), wanted, m), rtol=1e-5)
        swayed += set(wanted) != set(choose(scores[b, t], m))
    assert (swayed > 0) == m.select_bias  # the bias decides who is chosen, and never what it weighs


def test_balance_loss_by_hand():
    """Three tokens and a padded one, three experts, one active, alpha 0.5. The tokens take experts 0, 0, 2: f = 3/1 x
    (2/3, 0, 1/3) = (2, 0, 1). Their normalised scores are (.6 .2 .2), (.5 .25 .25), (.1 .3 .6): P = (.4 .25 .35).
    0.5 x (2 x .4 + 0 x .25 + 1 x .35) = 0.575; a second row of the same adds the same."""
    m = Moe(experts=3, active=1, shared=0, width=4, balance_loss=0.5)
    row = [[0.6, 0.2, 0.2], [0.4, 0.2, 0.2], [0.1, 0.3, 0.6], [0.9, 0.8, 0.7]]
    live = jnp.array([[True, True, True, False]] * 2)
    loss = lambda scores: moe.balance_loss(scores, live, m)  # noqa: E731
    assert float(loss(jnp.array([row] * 2))) == pytest.approx(2 * 0.575, abs=1e-6)
    # The count is data. The slope is that of P alone, by the quotient rule on the second token (its sum is 0.8):
    # dL/ds = 0.5 / 3 x (f - (2 x .5 + .25)) / 0.8.
    slope = jax.grad(loss)(jnp.array([row] * 2))
    np.testing.assert_allclose(slope[1, 1], 0.5 / 3 / 0.8 * (np.array([2, 0, 1]) - 1.25), rtol=1e-5)
    assert not slope[:, 3].any()


# Dispatch.


def layer(mesh: Mesh, cfg: Transformer, length: int, favoured: Sequence[int]):
    """The layer on a mesh, its weights, and (x, bias, live, weights of the outputs); most rows end in padding. Every
    token takes the `favoured` experts first."""
    layout = Layout(mesh)
    module = moe.ExpertFeedForward(cfg, layout)
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(2, B, length, cfg.width)).astype(np.float32)
    live = np.arange(length) < rng.integers(length // 2, length + 1, (B, 1))
    bias = rng.normal(0, 0.3, cfg.moe.experts).astype(np.float32)
    bias[list(favoured)] += 10
    data = (
        collate.put(x, layout.BTD),
        collate.put(bias, jax.P()),
        collate.put(live, layout.BT),
        collate.put(c, layout.BTD),
    )
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *data[:3]))
    return module, small.draw(shapes, 0.5), data


def dispatched(mesh: Mesh, cfg: Transformer = small.MOE, length: int = T, favoured: Sequence[int] = ()):
    """-> (y, load, gradients of sum(c y) for weights and x), as numpy."""

    def total(weights, x, bias, live, c):
        y, load = module.apply(weights, x, bias, live)
        return (y * c).sum(), (y, load)

    with small.on(mesh):
        module, weights, data = layer(mesh, cfg, length, favoured)
        slopes, (y, load) = jax.jit(jax.grad(total, (0, 1), has_aux=True))(weights, *data)
    return jax.tree.map(np.asarray, (y, load, slopes))


def expected(cfg: Transformer = small.MOE, length: int = T, favoured: Sequence[int] = ()):
    """The same by running all experts on all tokens."""
    with small.on(Mesh()):
        _, weights, (x, bias, live, c) = layer(Mesh(), cfg, length, favoured)
        p, x, bias, live, c = jax.tree.map(np.asarray, (weights["params"], x, bias, live, c))
    m, experts = cfg.moe, np.arange(cfg.moe.experts)
    hidden = lambda x, gate, up, down: (jax.nn.silu(x @ gate) * (x @ up)) @ down  # noqa: E731

    def scores_of(p, x):
        return jax.nn.sigmoid(x @ p["router"])

    select = np.asarray(scores_of(p, x)) + bias
    chosen = np.array([[choose(select[b, t], m) for t in range(length)] for b in range(B)])
    mask = (chosen[..., None] == experts).any(-2) & live[..., None]

    def total(p, x):
        scores = scores_of(p, x)
        picked = jnp.take_along_axis(scores, chosen, -1).sum(-1, keepdims=True)
        shared = p["shared"]
        y = hidden(x, *(shared[name]["w"] for name in ("gate", "up", "down")))
        for e in experts:
            gate = m.scale * scores[..., e : e + 1] / picked * mask[..., e : e + 1]
            y += gate * hidden(x, p["experts_gate"][e], p["experts_up"][e], p["experts_down"][e])
        return (y * c).sum(), y

    slopes, y = jax.jit(jax.grad(total, (0, 1), has_aux=True))(p, x)
    return jax.tree.map(np.asarray, (y, mask.sum((0, 1)), ({"params": slopes[0]}, slopes[1]), live))


@pytest.fixture(scope="module")
def oracle():
    return expected()


def same(got, wanted):
    """Equal up to float32's rounding: sums of up to 64 products, added in another order."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max()), got, wanted)


MESHES = {
    "one device": Mesh(),
    "two": Mesh(expert=2),
    "four": Mesh(expert=4),
    "stored over fsdp, width over tensor": Mesh(fsdp=2, expert=2, tensor=2),
    "context": Mesh(data=2, expert=2, context=2),
}


@pytest.mark.parametrize("mesh", MESHES.values(), ids=MESHES)
def test_dispatch_equals_all_experts_on_all_tokens(mesh, oracle):
    y, load, slopes = dispatched(mesh)
    wanted_y, wanted_load, wanted_slopes, live = oracle
    same((y, slopes), (wanted_y, wanted_slopes))
    np.testing.assert_array_equal(load.tokens_E, wanted_load)
    assert wanted_load.sum() == live.sum() * small.MOE.moe.active < live.size * small.MOE.moe.active


SPREAD = dataclasses.replace(small.MOE, moe=dataclasses.replace(small.MOE.moe, experts=16, groups=1))
LONG = 128  # tokens a row, each of which takes two experts


@pytest.fixture
def computed(monkeypatch):
    """How often a device has multiplied with its experts: a list that gets an entry from each device each time."""
    calls, products = [], moe._products

    def counted(*args):
        jax.debug.callback(lambda: calls.append(1))
        return products(*args)

    monkeypatch.setattr(moe, "_products", counted)
    return calls


@pytest.mark.parametrize(
    ("mesh", "room"),
    [
        pytest.param(Mesh(expert=8), 64, id="eight"),  # of 256 items, LONG x 2: 256 x 1.5 / 8 + 16
        pytest.param(Mesh(data=2, expert=4), 112, id="rows"),  # 256 x 1.5 / 4 + 16
        pytest.param(Mesh(fsdp=2, expert=2, tensor=2), 400, id="storage, width"),  # 512 x 1.5 / 2 + 16
        pytest.param(Mesh(expert=4, context=2), 112, id="context"),  # of half of two rows
    ],
)
def test_a_crowd_at_one_shard_is_served_in_rounds(mesh, room, computed):
    """Every token takes experts 4 and 5, of one shard. The devices have more or less padding, so some are done first.

    Forwards all rounds are computed, backwards all but the first once more."""
    crowd = SPREAD, LONG, (4, 5)
    y, load, slopes = dispatched(mesh, *crowd)
    wanted_y, wanted_load, wanted_slopes, live = expected(*crowd)
    same((y, slopes), (wanted_y, wanted_slopes))
    np.testing.assert_array_equal(load.tokens_E, wanted_load)
    assert (wanted_load[[4, 5]] == live.sum()).all()
    shards = mesh.data * mesh.fsdp * mesh.expert
    rounds = -(-2 * live.reshape(shards, B // shards, mesh.context, -1).sum((1, 3)).max() // room)
    assert rounds > 1
    assert len(computed) == mesh.size * (2 * rounds - 1)


def test_tokens_that_spread_take_one_round(computed):
    """And so do few tokens, however they go."""
    mesh = Mesh(data=2, expert=4)
    for case in ((SPREAD, LONG), (SPREAD, T, (4, 5))):
        y, _, slopes = dispatched(mesh, *case)
        wanted_y, _, wanted_slopes, _ = expected(*case)
        same((y, slopes), (wanted_y, wanted_slopes))
        assert len(computed) == mesh.size
        computed.clear()


def test_the_accelerators_products_equal_the_cpus():
    """`ragged_dot` is what a TPU or a GPU runs; here it is run on the CPU. Some items go to no expert."""
    rng = np.random.default_rng(0)
    n, m, D, F = 10, 40, 4, 6
    x, token, expert = rng.normal(size=(n, D)), rng.integers(0, n, m), rng.integers(0, E + 1, m)
    weights = [rng.normal(size=shape) for shape in ((E, D, F), (E, D, F), (E, F, D))]
    x, *weights = (jnp.asarray(a, jnp.float32) for a in (x, *weights))
    c = jnp.asarray(rng.normal(size=(m, D)), jnp.float32)

    def run(products):
        def total(x, *weights):
            y = products(x, jnp.asarray(token), jnp.asarray(expert), *weights, experts=E)
            return (y * c).sum(), y

        return jax.jit(jax.value_and_grad(total, (0, 1, 2, 3), has_aux=True))(x, *weights)

    (_, ragged), ragged_slopes = run(moe._ragged)
    (_, blocked), blocked_slopes = run(moe._blocked)
    same((ragged, ragged_slopes), (blocked, blocked_slopes))
    assert (expert == E).any() and not np.asarray(blocked)[expert == E].any()
