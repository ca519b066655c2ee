"""Next-token training of a small base model on packed documents (DeepSeek-V3, 2412.19437, section 4).

Documents are packed whole and do not see each other. The balancing bias moves after every step; multi-token prediction
adds its loss.
"""

import dataclasses
from functools import partial
from typing import Literal

import jax
import numpy as np

from r1jax import collate
from r1jax.base.fields import at_least, check, require
from r1jax.base.mesh import Mesh
from r1jax.base.metrics import read
from r1jax.base.place import Place
from r1jax.base.plots import curves
from r1jax.data import feed
from r1jax.data.tokenizer import EOS, Tokenizer
from r1jax.data.world import World
from r1jax.learn import update
from r1jax.learn.likelihood import Model, next_token_loss
from r1jax.learn.optim import AdamW
from r1jax.learn.state import Batch, State
from r1jax.loop import Loop, Saving, apply, ladder
from r1jax.model import lm
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """data: the stage that prepared the data. rows x row_length tokens are one optimizer step, in `microbatches`.

    capacities: rooms of an expert shard over its even share that a step tries in turn; matters with Mesh.expert > 1.
    """

    data: str
    task: World
    model: Transformer
    mesh: Mesh
    optimizer: AdamW
    saving: Saving
    steps: int
    rows: int
    row_length: int
    microbatches: int = 1
    bias_rate: float = 0.001
    mtp_weight: float = 0.3
    capacities: tuple[float, ...] = (1.5, 3.0)
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = True
    seed: int = 0

    def __post_init__(self):
        check(self)
        at_least(1, self, "steps", "rows", "row_length", "microbatches")
        require(len(self.capacities) > 0, "pretrain.Run.capacities is empty; it needs one at least")
        require(
            self.rows % self.microbatches == 0,
            f"pretrain.Run.rows {self.rows} is no multiple of microbatches {self.microbatches}",
        )
        require(
            self.row_length <= self.model.context,
            f"pretrain.Run.row_length {self.row_length} is longer than the model's context {self.model.context}",
        )

    @property
    def layout(self) -> Layout:
        return Layout(self.mesh, self.dtype)


def describe(cfg: Run, place: Place) -> list[str]:
    cfg.optimizer.rate(cfg.steps)
    cfg.layout.check_rows(cfg.rows // cfg.microbatches, cfg.row_length)
    with jax.sharding.use_abstract_mesh(cfg.mesh.abstract()):
        policy = jax.eval_shape(lambda: lm.init(jax.random.key(0), cfg.model, cfg.layout))
    return [
        f"{lm.count(policy):,} parameters on {cfg.mesh}",
        f"{cfg.rows} rows x {cfg.row_length} tokens = {cfg.rows * cfg.row_length:,} tokens an optimizer step, "
        f"in {cfg.microbatches} microbatches; {cfg.steps} steps",
    ]


def run(cfg: Run, place: Place) -> None:
    tokenizer = Tokenizer(place.other(cfg.data) / "tokenizer.model")
    tokenizer.check(cfg.model.vocabulary)
    texts = cfg.task.texts(place.other(cfg.data))
    packed, _ = collate.pack([[*ids, EOS] for ids in tokenizer.encode_all(texts)], cfg.row_length)
    with jax.set_mesh(cfg.mesh.make()), Loop(place, cfg.steps, cfg.saving) as loop:
        optimizer = cfg.optimizer.make(cfg.steps)
        fresh = lambda: update.init(lm.init(jax.random.key(cfg.seed), cfg.model, cfg.layout), optimizer)  # noqa: E731
        found = loop.restore(jax.eval_shape(fresh).items())
        if found is None:
            step, state = 0, jax.jit(fresh)()
        else:
            step, arrays, _ = found
            state = State.of(arrays)

        def loss(capacity):
            model = Model(cfg.model, cfg.layout, capacity, cfg.remat)
            return partial(next_token_loss, model=model, mtp_weight=cfg.mtp_weight)

        rungs = ladder(loss, cfg.capacities, cfg.mesh, optimizer, cfg.bias_rate)
        while step < cfg.steps:
            batch, count, tokens = _batch(cfg, packed, step)
            state, metrics = apply(rungs, state, batch, count, name=place.name)
            step += 1
            loop.record(step, metrics, shown=("loss", "time/tokens_per_second"), tokens=tokens)
            loop.checkpoint(step, lambda: state.items(), {"step": step})  # noqa: B023
        loop.store.wait()
    curves(read(place.folder / "metrics.jsonl"), place.folder / "plots")
    place.finish({"steps": cfg.steps, "loss": read(place.folder / "metrics.jsonl")[-1]["loss"]})


def _batch(cfg: Run, packed: collate.Packed, step: int) -> tuple[Batch, np.ndarray, int]:
    """The rows of one step, by the feed: (batch, number of microbatches, target tokens)."""
    index = feed.take(cfg.seed, step * cfg.rows, cfg.rows, len(packed["tokens"]))
    rows, count = collate.stack(
        {name: a[index] for name, a in packed.items()}, cfg.microbatches, cfg.rows // cfg.microbatches
    )
    live = collate.live(rows)
    weights = (live / live.sum()).astype(np.float32)
    batch = Batch(
        rows=collate.put_rows(rows, cfg.layout),
        weights=collate.put(weights, collate.spec(weights, cfg.layout)),
        row_weight=collate.put(np.float32(1 / cfg.rows), jax.P()),
    )
    return batch, collate.put(np.int32(count), jax.P()), int(live.sum())
