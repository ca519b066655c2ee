"""Supervised training on packed rows: the loop that pretraining, fine-tuning and the training of a judge share.

In the first two a step reads `rows` rows, which the feed picks; every epoch shuffles them anew. The loss is the mean
over the targets that weigh: all of them in pretraining, those of the completions in fine-tuning.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import jax
import numpy as np

from r1jax import collate
from r1jax.base.fields import at_least, require, where
from r1jax.base.mesh import Mesh
from r1jax.base.metrics import read
from r1jax.base.place import Place
from r1jax.base.plots import curves
from r1jax.data import feed
from r1jax.learn import update
from r1jax.learn.likelihood import Model, next_token_loss
from r1jax.learn.optim import AdamW
from r1jax.learn.state import Batch, State
from r1jax.loop import Loop, Saving, spent
from r1jax.model import lm
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout


class Steps(Protocol):
    """What the Run of a stage says of its optimizer steps; stages.pretrain.Run explains the fields."""

    layout: Layout
    optimizer: AdamW
    saving: Saving
    bias_rate: float


class Settings(Steps, Protocol):
    """What the Run of pretraining or fine-tuning says in addition."""

    model: Transformer
    mesh: Mesh
    rows: int
    row_length: int
    microbatches: int
    mtp_weight: float
    remat: bool
    seed: int


def check(cfg: Settings) -> None:
    """UserError where the fields of a Run do not go together."""
    at_least(1, cfg, "rows", "row_length", "microbatches")
    at_least(0, cfg, "bias_rate", "mtp_weight")
    require(
        cfg.rows % cfg.microbatches == 0,
        f"{where(cfg, 'rows')} {cfg.rows} is no multiple of microbatches {cfg.microbatches}",
    )
    require(
        cfg.row_length <= cfg.model.context,
        f"{where(cfg, 'row_length')} {cfg.row_length} is longer than the model's context {cfg.model.context}",
    )


def describe(cfg: Settings) -> tuple[str, str]:
    """What a stage says of its model and of its rows. UserError where the rows do not lie on the mesh."""
    cfg.layout.check_rows(cfg.rows // cfg.microbatches, cfg.row_length)
    with jax.sharding.use_abstract_mesh(cfg.mesh.abstract()):
        policy = lm.shapes(cfg.model, cfg.layout)
    return (
        f"{lm.count(policy):,} parameters on {cfg.mesh}",
        f"{cfg.rows} rows x {cfg.row_length} tokens = {cfg.rows * cfg.row_length:,} tokens an optimizer step, "
        f"in {cfg.microbatches} microbatches",
    )


def train(
    cfg: Settings,
    place: Place,
    packed: collate.Packed,
    steps: int,
    first: Callable[[], lm.Policy],
    *,
    loss: Callable | None = None,
    taught: Callable[[Batch, jax.Array], Batch] = lambda batch, count: batch,
) -> dict:
    """Takes `steps` optimizer steps from the policy `first()`, or goes on from the last checkpoint; on the mesh in
    force. packed: the arrays of `Rows` and `weights` (0 or 1), each [R, T]. loss: another one than that of the next
    token, of batches to which `taught` has added. -> the summary of the stage."""
    loss = loss or partial(next_token_loss, mtp_weight=cfg.mtp_weight)
    loss = partial(loss, model=Model(cfg.model, cfg.layout, cfg.remat))

    def batch_of(step):
        batch, count, tokens = _batch(cfg, packed, step)
        return taught(batch, count), count, tokens

    shapes = lm.shapes(cfg.model, cfg.layout)
    _, records = fit(cfg, place, steps, shapes, first, loss, batch_of, ("time/tokens_per_second",))
    return {"steps": steps, "loss": records[-1]["loss"]} | spent(cfg.model, records)


def fit(
    cfg: Steps,
    place: Place,
    steps: int,
    shapes: lm.Policy,
    first: Callable[[], lm.Policy],
    loss: Callable,
    batch_of: Callable[[int], tuple[Batch, jax.Array, int]],
    shown: Sequence[str],
) -> tuple[lm.Policy, list[dict]]:
    """(the policy of these shapes after `steps` optimizer steps from `first()`, or from the last checkpoint; the
    metrics of all steps); on the mesh in force. loss: as `update.update` wants it. batch_of(step) -> (batch, number of
    microbatches, tokens that count). shown: the metrics beside the bar, after the loss."""
    with Loop(place, steps, cfg.saving) as loop:
        optimizer = cfg.optimizer.make(steps)
        found = loop.restore(jax.eval_shape(lambda p: update.init(p, optimizer), shapes).items())
        if found is None:
            step, state = 0, jax.jit(partial(update.init, optimizer=optimizer))(first())
        else:
            step, arrays, _ = found
            state = State.of(arrays)
        advance = update.compiled(loss, optimizer, cfg.bias_rate)
        while step < steps:
            batch, count, tokens = batch_of(step)
            state, metrics = advance(state, batch, count)
            step += 1
            loop.record(step, metrics, shown=("loss", *shown), tokens=tokens)
            loop.checkpoint(step, lambda: state.items(), {"step": step})  # noqa: B023
        loop.store.wait()
    records = read(place.folder / "metrics.jsonl")
    curves(records, place.folder / "plots")
    return state.policy, records


def _batch(cfg: Settings, packed: collate.Packed, step: int) -> tuple[Batch, jax.Array, int]:
    """The rows of one step, by the feed: (batch, number of microbatches, target tokens)."""
    index = feed.take(cfg.seed, step * cfg.rows, cfg.rows, len(packed["tokens"]))
    rows, count = collate.stack(
        {name: a[index] for name, a in packed.items()}, cfg.microbatches, cfg.rows // cfg.microbatches
    )
    live = rows["weights"].sum()
    weights = (rows["weights"] / live).astype(np.float32)
    batch = Batch(
        rows=collate.put_rows(rows, cfg.layout),
        weights=collate.put(weights, collate.spec(weights, cfg.layout)),
        row_weight=collate.put(np.float32(1 / cfg.rows), jax.P()),
    )
    return batch, collate.put(np.int32(count), jax.P()), int(live)
