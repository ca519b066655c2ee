"""DeepSeekMoE (DeepSeek-V3, 2412.19437, equations 12 to 20): routing, dispatch over devices, grouped expert products.

    s = sigmoid(x R)    chosen = top-A of s + b inside the best groups    g = scale * s / sum of the chosen s
    y = shared(x) + sum over the chosen of g_e expert_e(x)

The bias b selects and never weighs; it is moved by the load, outside (learn/), never by the gradient. Padding goes to
no expert. No token is dropped. Across expert shards a token travels by `all_to_all`, in a buffer that has room for half
more than the even share; while a device has tokens left, all go on in further rounds over the same buffer.
Traps: the groups that lost are masked by -inf; a mask of 0 would win against negative biased scores. And the number of
rounds must be the same on all devices: a collective stands inside.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from r1jax.model.config import Moe, Transformer
from r1jax.model.layers import FeedForward, normal, project
from r1jax.model.layout import Layout

CAPACITY = 1.5  # rows of a device's buffer for an expert shard, over the shard's even share of the device's items,
SPARE = 16  # and so many more: of a few items, as in decoding, the shares scatter widely


class Load(NamedTuple):
    """What one layer did: tokens per expert [E], the sequence-wise balance loss [] (sum over rows)."""

    tokens_E: jax.Array
    balance_loss: jax.Array


def route(scores_BTE: jax.Array, bias_E: jax.Array, moe: Moe) -> tuple[jax.Array, jax.Array]:
    """Scores in float32 -> (chosen experts [B, T, A] int32, their gates [B, T, A])."""
    B, T, E = scores_BTE.shape
    select = scores_BTE + bias_E if moe.select_bias else scores_BTE
    if moe.groups > 1:
        grouped = select.reshape(B, T, moe.groups, -1)
        if moe.select_bias:
            group_score = jax.lax.top_k(grouped, 2)[0].sum(-1)
        else:
            group_score = grouped.max(-1)
        best = jax.lax.top_k(group_score, moe.top_groups)[1]
        keep = (best[..., None] == jnp.arange(moe.groups)).any(-2)
        select = jnp.where(keep[..., None], grouped, -jnp.inf).reshape(B, T, E)
    chosen_BTA = jax.lax.top_k(select, moe.active)[1]
    gates_BTA = jnp.take_along_axis(scores_BTE, chosen_BTA, axis=-1)
    if moe.renormalise:
        gates_BTA = gates_BTA / (gates_BTA.sum(-1, keepdims=True) + 1e-20)
    return chosen_BTA, gates_BTA * moe.scale


def balance_loss(scores_BTE: jax.Array, live_BT: jax.Array, moe: Moe) -> jax.Array:
    """V3 equations 17 to 20, summed over rows: E/A * sum over experts of (share of tokens choosing it) x (mean
    score)."""
    live_BT1 = live_BT[..., None].astype(jnp.float32)
    count_B1 = jnp.maximum(live_BT1.sum(1), 1.0)
    threshold = jax.lax.top_k(scores_BTE, moe.active)[0][..., -1:]
    chosen_BE = ((scores_BTE >= threshold) * live_BT1).sum(1) / count_B1
    shares = scores_BTE / scores_BTE.sum(-1, keepdims=True)
    mean_BE = (shares * live_BT1).sum(1) / count_B1
    return moe.balance_loss * moe.experts / moe.active * (jax.lax.stop_gradient(chosen_BE) * mean_BE).sum()


class ExpertFeedForward(nn.Module):
    """Shared and routed experts."""

    cfg: Transformer
    layout: Layout

    @nn.compact
    def __call__(self, x_BTD: jax.Array, bias_E: jax.Array, live_BT: jax.Array) -> tuple[jax.Array, Load]:
        c, moe, lay = self.cfg, self.cfg.moe, self.layout
        D, E, F = c.width, moe.experts, moe.width
        router_DE = self.param("router", normal(c.init_std, lay.whole), (D, E), jnp.float32)
        logits = project(x_BTD.astype(jnp.float32), router_DE, lay.BTD, precision="highest")
        scores = jax.nn.sigmoid(logits) if moe.score == "sigmoid" else jax.nn.softmax(logits, axis=-1)
        chosen_BTA, gates_BTA = route(scores, bias_E, moe)

        stored = ("expert", "expert_store", "tensor"), ("expert", "tensor", "expert_store")
        shapes = (E, D, F), (E, F, D)
        names = {"gate": 0, "up": 0, "down": 1}
        weights = {
            name: self.param(f"experts_{name}", normal(c.init_std, lay.stored(*stored[i])), shapes[i], jnp.float32)
            for name, i in names.items()
        }
        dispatch = jax.shard_map(
            partial(_dispatch, moe=moe, layout=lay),
            in_specs=(lay.BTD, lay.BTD, lay.BTD, lay.BT, {n: lay.stored(*stored[i]) for n, i in names.items()}),
            out_specs=(lay.BTD, lay.whole),
        )
        weights = {name: w.astype(lay.dtype) for name, w in weights.items()}
        y_BTD, tokens_E = dispatch(x_BTD, chosen_BTA, gates_BTA, live_BT, weights)
        if moe.shared:
            y_BTD = y_BTD + FeedForward(c, moe.shared * F, lay, name="shared")(x_BTD)
        return y_BTD, Load(tokens_E, balance_loss(scores, live_BT, moe))


def _dispatch(x_BTD, chosen_BTA, gates_BTA, live_BT, weights, *, moe: Moe, layout: Layout):
    """One device's share: its tokens go to the experts' devices and come back weighted by their gates."""
    B, T, D = x_BTD.shape
    n, A, E = B * T, moe.active, moe.experts
    if layout.expert_store:
        gather = partial(jax.lax.all_gather, axis_name=layout.expert_store, tiled=True)
        weights = {name: gather(w, axis=2 if name == "down" else 1) for name, w in weights.items()}
    x_nD, gates_nA = x_BTD.reshape(n, D), gates_BTA.reshape(n, A)
    expert_m = jnp.where(live_BT[..., None], chosen_BTA, E).reshape(n * A)  # padding: expert E, which is none
    token_m = jnp.arange(n * A) // A
    everywhere = tuple(
        a for names in (layout.rows, layout.context) for a in ([names] if isinstance(names, str) else names or ())
    )
    tokens_E = jnp.bincount(expert_m, length=E).astype(jnp.float32)
    if everywhere:
        tokens_E = jax.lax.psum(tokens_E, everywhere)
    if layout.mesh.expert == 1:
        y_nD = _weigh(_products(x_nD, token_m, expert_m, weights, E), gates_nA)
    else:
        y_nD = _exchange(x_nD, gates_nA, token_m, expert_m, weights, moe, layout, everywhere)
    if layout.tensor:
        y_nD = jax.lax.psum(y_nD, layout.tensor)
    return y_nD.reshape(B, T, D), tokens_E


def _weigh(y_mD: jax.Array, gates_nA: jax.Array) -> jax.Array:
    """The sum over each token's experts."""
    n, A = gates_nA.shape
    return (y_mD.reshape(n, A, -1) * gates_nA[..., None].astype(y_mD.dtype)).sum(1)


class _Groups(NamedTuple):
    """Items sorted by group: order [m] of item indices, and where each group starts and how many it has, [groups]."""

    order: jax.Array
    start: jax.Array
    count: jax.Array


def _sort(group_m: jax.Array, groups: int) -> _Groups:
    count = jnp.bincount(group_m, length=groups)  # items of group `groups` (none) sort last and are not counted
    return _Groups(jnp.argsort(group_m, stable=True), jnp.cumsum(count) - count, count)


class _Items(NamedTuple):
    """What is sent: item m is row token_m[m] for expert_m[m]; its shard is its group, in which it is number
    number_m[m]."""

    token_m: jax.Array
    expert_m: jax.Array
    groups: _Groups
    shard_m: jax.Array
    number_m: jax.Array


def _exchange(x_nD, gates_nA, token_m, expert_m, weights, moe: Moe, layout: Layout, everywhere) -> jax.Array:
    """The weighed products [n, D] of items whose experts lie on other devices, over a buffer [shards, room], in as many
    rounds as the fullest group on any device takes. everywhere: the axes over which tokens lie."""
    n, m, shards = x_nD.shape[0], token_m.shape[0], layout.mesh.expert
    local = moe.experts // shards
    most = n * min(moe.active, local)  # a token never takes an expert twice
    room = min(most, -(-int(m * CAPACITY) // shards) + SPARE)
    groups = _sort(expert_m // local, shards)
    shard_m = jnp.minimum(expert_m // local, shards - 1)
    items = _Items(token_m, expert_m, groups, shard_m, jnp.argsort(groups.order) - groups.start[shard_m])
    # Typed as what they are multiplied with, so that slopes are summed over devices once, and not in every round.
    if layout.tensor:
        x_nD, gates_nA = jax.lax.pcast((x_nD, gates_nA), layout.tensor, to="varying")
    copied = tuple(axis for axis in everywhere if axis not in ("expert", layout.expert_store))
    if copied:
        weights = jax.lax.pcast(weights, copied, to="varying")
    one = partial(_round, experts=moe.experts, room=room)
    if room == most:
        return one(0, items, x_nD, gates_nA, weights)
    rounds = jax.lax.pmax(-(-groups.count.max() // room), everywhere)
    return _sum(one, rounds, items, x_nD, gates_nA, weights)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum(one, rounds, items: _Items, *args) -> jax.Array:
    """one(r, items, *args), summed over rounds r = 0, 1, ...

    Their number is traced, and such a loop jax does not run backwards. So this says how: the first round keeps what any
    function keeps for its gradient, the others, which are rare, keep nothing and are computed again."""
    return _sum_and_pull(one, rounds, items, *args)[0]


def _sum_and_pull(one, rounds, items, *args):
    y_nD, pull = jax.vjp(partial(one, 0, items), *args)
    y_nD = jax.lax.fori_loop(1, rounds, lambda r, y: y + one(r, items, *args), y_nD)
    return y_nD, (pull, rounds, items, args)


def _pull(one, kept, slope_nD):
    pull, rounds, items, args = kept

    def add(r, slopes):
        return jax.tree.map(jnp.add, slopes, jax.vjp(partial(one, r, items), *args)[1](slope_nD))

    return None, None, *jax.lax.fori_loop(1, rounds, add, pull(slope_nD))


_sum.defvjp(_sum_and_pull, _pull)


def _round(r, items: _Items, x_nD, gates_nA, weights, *, experts: int, room: int) -> jax.Array:
    """Sends numbers r * room and on of each group to their shard, computes there, sends back; weighs these items."""
    token_m, expert_m, (order, start, count), shard_m, number_m = items
    (m, D), (shards,) = (token_m.shape[0], x_nD.shape[1]), start.shape
    local = experts // shards
    number = r * room + jnp.arange(room)
    filled = number < count[:, None]
    item = order[jnp.minimum(start[:, None] + number, m - 1)]  # that lies in a cell of the buffer
    swap = partial(jax.lax.all_to_all, axis_name="expert", split_axis=0, concat_axis=0, tiled=True)
    x_cells = swap(jnp.where(filled[..., None], x_nD[token_m[item]], 0))
    e_cells = swap(jnp.where(filled, expert_m[item] % local, local))
    y_cells = _products(x_cells.reshape(-1, D), jnp.arange(shards * room), e_cells.reshape(-1), weights, local)
    y_cells = swap(y_cells.reshape(shards, room, D)).reshape(-1, D)
    column_m = number_m - r * room
    served = (expert_m < experts) & (column_m >= 0) & (column_m < room)
    y_mD = jnp.where(served[:, None], y_cells[jnp.where(served, shard_m * room + column_m, 0)], 0)
    return _weigh(y_mD, gates_nA)


def _products(x_nD, token_m, expert_m, weights, experts: int) -> jax.Array:
    """down(silu(gate x) * up x) of item m's expert on row token_m[m] -> [m, D]; zeros where the expert is none."""
    args = x_nD, token_m, expert_m, weights["gate"], weights["up"], weights["down"]
    return jax.lax.platform_dependent(
        *args, cpu=partial(_blocked, experts=experts), default=partial(_ragged, experts=experts)
    )


def _ragged(x_nD, token_m, expert_m, gate_EDF, up_EDF, down_EFD, *, experts):
    order, _, count = _sort(expert_m, experts)
    dot = partial(jax.lax.ragged_dot, group_sizes=count.astype(jnp.int32))
    routed = expert_m < experts  # rows beyond the groups may hold anything, and so may their gradients
    x = jnp.where(routed[order][:, None], x_nD[token_m[order]], 0)
    y = dot(jax.nn.silu(dot(x, gate_EDF)) * dot(x, up_EDF), down_EFD)[jnp.argsort(order)]
    return jnp.where(routed[:, None], y, 0)


def _blocked(x_nD, token_m, expert_m, gate_EDF, up_EDF, down_EFD, *, experts):
    """The CPU's way: each expert's items are padded to whole blocks, one batched product over all blocks."""
    m = token_m.shape[0]
    size = 8
    while size < 64 and 2 * size * experts <= m:
        size *= 2
    order, start, count = _sort(expert_m, experts)
    blocks = -(-count // size)
    first, total = jnp.cumsum(blocks) - blocks, m // size + experts
    owner = jnp.minimum(jnp.searchsorted(jnp.cumsum(blocks), jnp.arange(total), side="right"), experts - 1)
    inside = (jnp.arange(total) - first[owner])[:, None] * size + jnp.arange(size)  # a cell's rank within its expert
    filled = (inside >= 0) & (inside < count[owner][:, None])
    item = order[jnp.where(filled, start[owner][:, None] + inside, 0)]
    x = jnp.where(filled[..., None], x_nD[token_m[item]], 0)
    h = jax.nn.silu(jnp.einsum("bsd,bdf->bsf", x, gate_EDF[owner])) * jnp.einsum("bsd,bdf->bsf", x, up_EDF[owner])
    y = jnp.einsum("bsf,bfd->bsd", h, down_EFD[owner]).reshape(total * size, -1)
    known = jnp.minimum(expert_m, experts - 1)
    cell_m = first[known] * size + jnp.argsort(order) - start[known]
    return jnp.where((expert_m < experts)[:, None], y[jnp.where(expert_m < experts, cell_m, 0)], 0)
