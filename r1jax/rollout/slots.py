"""The sampling loop: slots that are refilled inside one compiled loop.

Each question is prefilled once; its G samples share that prefix. A slot that ends takes the next sample of its shard's
queue: the prefix is copied over its cache and decoding goes on, so nobody waits for the longest response. One turn is
refill -> draw -> decode; refilling and drawing are local to a shard of rows, decoding is the model in global view. The
trip count is global: a loop with collectives inside must turn equally often everywhere.

The key of a draw is fold_in(seed, rollout, question id, sample index, position): slot, mesh, refill and restart do not
enter, so the same policy gives the same text anywhere the logits agree.
"""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp

from r1jax.model import lm
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout
from r1jax.rollout.draw import draw
from r1jax.rollout.sampler import Prompts, Sample, Sampler


@flax.struct.dataclass
class _Slots:
    """What every slot is at, each [B]: item in the shard's queue (question x G + sample), tokens drawn so far, the
    cache position of the next token, whether a sample is in it."""

    item: jax.Array
    drawn: jax.Array
    position: jax.Array
    live: jax.Array


@flax.struct.dataclass
class _Loop:
    slots: _Slots
    next: jax.Array  # [row shards]: head of each shard's queue
    logits: jax.Array  # [B, X]
    cache: list
    out: Sample  # flat over [Q x G]
    turns: jax.Array


def generate(
    view: lm.Policy,
    prompts: Prompts,
    key: jax.Array,
    *,
    sampler: Sampler,
    eos: int,
    cfg: Transformer,
    layout: Layout,
) -> tuple[Sample, jax.Array]:
    """Samples G responses to each of Q questions -> (Sample, turns of the loop).

    key: fold_in(seed, rollout). Q and `sampler.slots` are multiples of the number of row shards; the questions of a
    shard are consecutive. view: `model.lm.view` of the policy, in `layout`.
    """
    shards = layout.mesh.data * layout.mesh.fsdp * layout.mesh.expert
    Q, G, B = prompts.tokens.shape[0], sampler.samples, min(sampler.slots, prompts.tokens.shape[0] * sampler.samples)
    row = jax.P(layout.rows)
    local = partial(jax.shard_map, out_specs=row)
    zeros = partial(jnp.zeros, out_sharding=row)

    inside = jnp.arange(sampler.prompt_tokens) < prompts.lengths[:, None]
    positions = jnp.where(inside, jnp.arange(sampler.prompt_tokens), 0)
    rows = lm.Rows(prompts.tokens, positions, inside.astype(jnp.int32), jnp.zeros_like(prompts.tokens))
    prefix = lm.prefill(view, rows, cfg=cfg, layout=layout)
    last = local(lambda x, n: jnp.take_along_axis(x, n[:, None, None] - 1, 1)[:, 0], in_specs=(row, row))
    first_logits = lm.logits(last(prefix.x_BTD, prompts.lengths), prefix.head_DX, layout)

    def keys(ids, key):  # one key per item of the queue: question, then sample
        per_question = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
        return jax.vmap(lambda k: jax.vmap(jax.random.fold_in, (None, 0))(k, jnp.arange(G)))(per_question).reshape(-1)

    item_keys = local(keys, in_specs=(row, jax.P()))(prompts.ids, key)
    entries = jax.tree.map(lambda a: jax.typeof(a).sharding.spec, prefix.entries)  # heads may lie over tensor
    take = jax.shard_map(
        partial(_refill, samples=G),
        in_specs=(row, row, row, entries, row, entries, row),
        out_specs=(row, row, row, entries),
    )
    pick = local(partial(_draw, sampler=sampler, eos=eos), in_specs=row)

    def turn(loop: _Loop) -> _Loop:
        slots, head, logits, cache = take(
            loop.slots, loop.next, loop.logits, loop.cache, first_logits, prefix.entries, prompts.lengths
        )
        slots, token, at, out = pick(slots, logits, item_keys, loop.out)
        logits, cache = lm.decode(view, token, at, slots.live, cache, cfg=cfg, layout=layout)
        return _Loop(slots=slots, next=head, logits=logits, cache=cache, out=out, turns=loop.turns + 1)

    def more(loop: _Loop) -> jax.Array:
        return loop.slots.live.any() | (loop.next < Q * G // shards).any()

    L = sampler.response_tokens
    flat = Sample(
        tokens=zeros((Q * G, L), jnp.int32),
        logp=zeros((Q * G, L), jnp.float32),
        mass=zeros((Q * G, L), jnp.float32),
        lengths=zeros((Q * G,), jnp.int32),
        finished=zeros((Q * G,), bool),
    )
    start = _Loop(
        slots=_Slots(*(zeros((B,), dtype) for dtype in (jnp.int32, jnp.int32, jnp.int32, bool))),
        next=zeros((shards,), jnp.int32),
        logits=zeros((B, first_logits.shape[1]), jnp.float32),
        cache=lm.empty_cache(prefix.entries, B, sampler.window),
        out=flat,
        turns=jnp.zeros((), jnp.int32),
    )
    end = jax.lax.while_loop(more, turn, start)
    return jax.tree.map(lambda a: a.reshape(Q, G, *a.shape[1:]), end.out), end.turns


def _refill(slots: _Slots, head, logits, cache, first_logits, prefix, lengths, *, samples: int):
    """Gives each free slot of a shard the next sample of the queue; the loop turns once per slot that is filled."""
    items = first_logits.shape[0] * samples

    def fill(carry):
        slots, head, logits, cache, free = carry
        slot, item = jnp.argmax(free), head[0]
        question = item // samples
        copy = lambda c, p: jax.lax.dynamic_update_index_in_dim(  # noqa: E731
            c, jax.lax.dynamic_update_slice_in_dim(c[slot], p[question], 0, 0), slot, 0
        )
        slots = _Slots(
            item=slots.item.at[slot].set(item),
            drawn=slots.drawn.at[slot].set(0),
            position=slots.position.at[slot].set(lengths[question]),
            live=slots.live.at[slot].set(True),
        )
        return (
            slots,
            head + 1,
            logits.at[slot].set(first_logits[question]),
            jax.tree.map(copy, cache, prefix),
            free.at[slot].set(False),
        )

    more = lambda carry: carry[4].any() & (carry[1][0] < items)  # noqa: E731
    return jax.lax.while_loop(more, fill, (slots, head, logits, cache, ~slots.live))[:4]


def _draw(slots: _Slots, logits, item_keys, out: Sample, *, sampler: Sampler, eos: int):
    """Draws and records one token per live slot -> (slots, tokens [B], their cache positions [B], out)."""
    keys = jax.vmap(jax.random.fold_in)(item_keys[slots.item], slots.drawn)
    uniform = jax.vmap(jax.random.uniform)(keys)
    token, logp, mass = draw(logits, uniform, temperature=sampler.temperature, top_p=sampler.top_p, top_k=sampler.top_k)
    ended = token == eos
    over = slots.live & (ended | (slots.drawn + 1 == sampler.response_tokens))
    put = lambda a, v: a.at[jnp.where(slots.live, slots.item, a.shape[0]), slots.drawn].set(v, mode="drop")  # noqa: E731
    done = lambda a, v: a.at[jnp.where(over, slots.item, a.shape[0])].set(v, mode="drop")  # noqa: E731
    out = Sample(
        tokens=put(out.tokens, token),
        logp=put(out.logp, logp),
        mass=put(out.mass, mass),
        lengths=done(out.lengths, slots.drawn + 1),
        finished=done(out.finished, ended),
    )
    at = slots.position
    slots = _Slots(item=slots.item, drawn=slots.drawn + 1, position=at + 1, live=slots.live & ~over)
    return slots, token, jnp.minimum(at, sampler.window - 1), out
