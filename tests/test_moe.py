"""The mixture of experts: routing against a plain loop, dispatch against all experts on all tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from r1jax import collate
from r1jax.base.mesh import Mesh
from r1jax.model import moe
from r1jax.model.config import Moe
from r1jax.model.layout import Layout

B, T, E = 8, 8, 8
ROUTING = Moe(experts=E, active=2, shared=1, width=8)


def choose(select, m: Moe) -> list[int]:
    """V3's selection for one token: the best experts of the best groups, the very best one first."""
    groups = np.split(np.arange(E), m.groups)
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


def layer(mesh: Mesh, capacity: float | None):
    """The layer on a mesh, its weights, and (x, bias, live, weights of the outputs); most rows end in padding."""
    layout = Layout(mesh)
    module = moe.ExpertFeedForward(small.MOE, layout, capacity)
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(2, B, T, small.MOE.width)).astype(np.float32)
    live = np.arange(T) < rng.integers(3, T + 1, (B, 1))
    bias = rng.normal(0, 0.3, E).astype(np.float32)
    data = (
        collate.put(x, layout.BTD),
        collate.put(bias, jax.P()),
        collate.put(live, layout.BT),
        collate.put(c, layout.BTD),
    )
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *data[:3]))
    return module, small.draw(shapes, 0.5), data


def dispatched(mesh: Mesh, capacity: float | None):
    """-> (y, load, gradients of sum(c y) for weights and x), as numpy."""

    def total(weights, x, bias, live, c):
        y, load = module.apply(weights, x, bias, live)
        return (y * c).sum(), (y, load)

    with small.on(mesh):
        module, weights, data = layer(mesh, capacity)
        slopes, (y, load) = jax.jit(jax.grad(total, (0, 1), has_aux=True))(weights, *data)
    return jax.tree.map(np.asarray, (y, load, slopes))


def expected(served=None):
    """The same by running all experts on all tokens. served [B, T, A]: items whose expert had room."""
    with small.on(Mesh()):
        _, weights, (x, bias, live, c) = layer(Mesh(), None)
        p, x, bias, live, c = jax.tree.map(np.asarray, (weights["params"], x, bias, live, c))
    m = small.MOE.moe
    hidden = lambda x, gate, up, down: (jax.nn.silu(x @ gate) * (x @ up)) @ down  # noqa: E731

    def scores_of(p, x):
        return jax.nn.sigmoid(x @ p["router"])

    select = np.asarray(scores_of(p, x)) + bias
    chosen = np.array([[choose(select[b, t], m) for t in range(T)] for b in range(B)])
    taken = live[..., None] if served is None else live[..., None] & served
    mask = ((chosen[..., None] == np.arange(E)) & taken[..., None]).any(-2)

    def total(p, x):
        scores = scores_of(p, x)
        picked = jnp.take_along_axis(scores, chosen, -1).sum(-1, keepdims=True)
        shared = p["shared"]
        y = hidden(x, *(shared[name]["w"] for name in ("gate", "up", "down")))
        for e in range(E):
            gate = m.scale * scores[..., e : e + 1] / picked * mask[..., e : e + 1]
            y += gate * hidden(x, p["experts_gate"][e], p["experts_up"][e], p["experts_down"][e])
        return (y * c).sum(), y

    slopes, y = jax.jit(jax.grad(total, (0, 1), has_aux=True))(p, x)
    load = np.array([((chosen == e) & live[..., None]).sum() for e in range(E)])
    return jax.tree.map(np.asarray, (y, load, ({"params": slopes[0]}, slopes[1]), chosen, live))


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
    y, load, slopes = dispatched(mesh, None)
    wanted_y, wanted_load, wanted_slopes, _, live = oracle
    same((y, slopes), (wanted_y, wanted_slopes))
    np.testing.assert_array_equal(load.tokens_E, wanted_load)
    assert wanted_load.sum() == live.sum() * small.MOE.moe.active < live.size * small.MOE.moe.active
    assert load.unserved == 0


def first_come(chosen, live, shards: int, capacity: float):
    """Which items find room [B, T, A]: each of `shards` devices has a buffer of so many rows for each expert shard, and
    fills it in the order of its tokens, a token's best expert first."""
    served = np.zeros(chosen.shape, bool)
    for rows in np.split(np.arange(B), shards):
        items = len(rows) * T * chosen.shape[-1]
        used, room = np.zeros(shards, int), -(-int(items * capacity) // shards)
        for b in rows:
            for t in np.flatnonzero(live[b]):
                for a, expert in enumerate(chosen[b, t]):
                    shard = expert // (E // shards)
                    served[b, t, a] = used[shard] < room
                    used[shard] += 1
    return served


def test_tokens_beyond_the_capacity_are_dropped_and_counted(oracle):
    """Only the last ones of the fuller shard, and only what their experts would have added. The room is 18.5, so 19."""
    y, load, slopes = dispatched(Mesh(expert=2), 0.58)
    _, wanted_load, _, chosen, live = oracle
    served = first_come(chosen, live, 2, 0.58)
    assert (served.any(-1) & ~served.all(-1) & live).any()  # a token lost one of its two experts
    missed = (live[..., None] & ~served).sum()
    assert 0 < missed < live.sum()
    assert load.unserved == missed
    np.testing.assert_array_equal(load.tokens_E, wanted_load)  # who was chosen, not who was served, moves the bias
    wanted_y, _, wanted_slopes, _, _ = expected(served)
    same((y, slopes), (wanted_y, wanted_slopes))


def test_enough_capacity_for_the_worst_case_is_the_number_of_shards():
    """Every token takes experts of the first shard: at twice the even share, two shards serve them all."""
    with small.on(Mesh(expert=2)):
        module, weights, (x, _, live, _) = layer(Mesh(expert=2), 2.0)
        bias = collate.put(np.where(np.arange(E) < E // 2, 10, 0).astype(np.float32), jax.P())
        everything = jnp.ones_like(live)
        load = jax.jit(module.apply)(weights, x, bias, everything)[1]
    assert load.tokens_E[: E // 2].sum() == B * T * small.MOE.moe.active
    assert load.unserved == 0


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
