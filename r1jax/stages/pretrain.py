"""Next-token training of a small base model on packed documents (DeepSeek-V3, 2412.19437, section 4).

Documents are packed whole and do not see each other. The balancing bias moves after every step; multi-token prediction
adds its loss.
"""

import dataclasses
from typing import Literal

import jax

from r1jax import collate, supervised
from r1jax.base.fields import at_least, check, require
from r1jax.base.mesh import Mesh
from r1jax.base.place import Place
from r1jax.data.questions import Source
from r1jax.data.tokenizer import Tokenizer
from r1jax.learn.optim import AdamW
from r1jax.loop import Saving
from r1jax.model import lm
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """data: the stage that prepared the data. rows x row_length tokens are one optimizer step, in `microbatches`.

    bias_rate: of the loss-free balancing; mtp_weight: of multi-token prediction."""

    data: str
    task: Source
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
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = True
    seed: int = 0

    def __post_init__(self):
        check(self)
        supervised.check(self)
        at_least(1, self, "steps")

    @property
    def layout(self) -> Layout:
        return Layout(self.mesh, self.dtype)


def describe(cfg: Run, place: Place) -> list[str]:
    cfg.optimizer.rate(cfg.steps)
    parameters, rows = supervised.describe(cfg)
    return [parameters, f"{rows}; {cfg.steps} steps"]


def run(cfg: Run, place: Place) -> None:
    tokenizer = Tokenizer(place.other(cfg.data))
    tokenizer.check(cfg.model.vocabulary)
    texts = cfg.task.texts(place.other(cfg.data))
    require(len(texts) > 0, f"{place.name}: the task has no documents to train on")
    packed, _ = collate.pack([[*ids, tokenizer.eos] for ids in tokenizer.encode_all(texts)], cfg.row_length)
    packed["weights"] = collate.live(packed)
    with jax.set_mesh(cfg.mesh.make()):
        first = jax.jit(lambda: lm.init(jax.random.key(cfg.seed), cfg.model, cfg.layout))
        summary = supervised.train(cfg, place, packed, cfg.steps, first)
    place.finish(summary)
