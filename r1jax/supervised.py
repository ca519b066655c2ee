"""Supervised training on packed rows: the loop that pretraining and fine-tuning share.

A step reads `rows` rows, which the feed picks; every epoch shuffles them anew. The loss is the mean over the targets
that weigh: all of them in pretraining, those of the completions in fine-tuning.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import jax
import numpy as np

from r1jax import collate
from r1jax.base.metrics import read
from r1jax.base.place import Place
from r1jax.base.plots import curves
from r1jax.data import feed
from r1jax.learn import update
from r1jax.learn.likelihood import Model, next_token_loss
from r1jax.learn.optim import AdamW
from r1jax.learn.state import Batch, State
from r1jax.loop import Loop, Saving, apply, ladder
from r1jax.model import lm
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout


class Settings(Protocol):
    """What the Run of a supervised stage says of its steps; stages.pretrain.Run explains the fields."""

    model: Transformer
    layout: Layout
    optimizer: AdamW
    saving: Saving
    rows: int
    row_length: int
    microbatches: int
    bias_rate: float
    mtp_weight: float
    capacities: tuple[float, ...]
    remat: bool
    seed: int


def train(cfg: Settings, place: Place, packed: collate.Packed, steps: int, first: Callable[[], lm.Policy]) -> dict:
    """Takes `steps` optimizer steps from the policy `first()`, or goes on from the last checkpoint; on the mesh in
    force. packed: the arrays of `Rows` and `weights` (0 or 1), each [R, T]. -> the summary of the stage."""
    with Loop(place, steps, cfg.saving) as loop:
        optimizer = cfg.optimizer.make(steps)
        shapes = lm.shapes(cfg.model, cfg.layout)
        found = loop.restore(jax.eval_shape(lambda p: update.init(p, optimizer), shapes).items())
        if found is None:
            step, state = 0, jax.jit(partial(update.init, optimizer=optimizer))(first())
        else:
            step, arrays, _ = found
            state = State.of(arrays)

        def loss(capacity):
            model = Model(cfg.model, cfg.layout, capacity, cfg.remat)
            return partial(next_token_loss, model=model, mtp_weight=cfg.mtp_weight)

        rungs = ladder(loss, cfg.capacities, cfg.layout.mesh, optimizer, cfg.bias_rate)
        while step < steps:
            batch, count, tokens = _batch(cfg, packed, step)
            state, metrics = apply(rungs, state, batch, count, name=place.name)
            step += 1
            loop.record(step, metrics, shown=("loss", "time/tokens_per_second"), tokens=tokens)
            loop.checkpoint(step, lambda: state.items(), {"step": step})  # noqa: B023
        loop.store.wait()
    records = read(place.folder / "metrics.jsonl")
    curves(records, place.folder / "plots")
    return {"steps": steps, "loss": records[-1]["loss"]}


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
