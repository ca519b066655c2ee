"""Supervised fine-tuning on completions: cold start, second fine-tuning and distillation (DeepSeek-R1, 2501.12948,
supplement B.4).

Prompts are read but not learned. Examples are packed whole and do not see each other.
"""

import dataclasses
import math
from functools import partial
from typing import Literal

import jax
import numpy as np

from r1jax import collate, policies, supervised
from r1jax.base.fields import at_least, check, not_empty, require
from r1jax.base.mesh import Mesh
from r1jax.base.place import Place
from r1jax.data import examples, packing
from r1jax.data.tokenizer import Tokenizer
from r1jax.learn import distill
from r1jax.learn.likelihood import Model
from r1jax.learn.optim import AdamW
from r1jax.loop import Saving
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """data: the stage with the tokenizer. examples: the stages whose examples are read. init: the one whose policy is
    trained. rows x row_length tokens are one optimizer step, in `microbatches`; an example that is longer than a row is
    left out and counted. The learning rate's schedule spans all `epochs`.

    teacher: learn what it thinks of the completions too, its `top` likeliest tokens at each place (learn.distill); that
    counts for `share` of the loss. None: the completions alone, as the paper does.

    bias_rate, mtp_weight: see pretrain.Run.
    """

    data: str
    examples: tuple[str, ...]
    init: str
    model: Transformer
    mesh: Mesh
    optimizer: AdamW
    saving: Saving
    rows: int
    row_length: int
    epochs: int = 2
    microbatches: int = 1
    teacher: policies.Teacher | None = None
    top: int = 16
    share: float = 1.0
    bias_rate: float = 0.0
    mtp_weight: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = True
    seed: int = 0

    def __post_init__(self):
        check(self)
        supervised.check(self)
        at_least(1, self, "epochs", "top")
        require(0 <= self.share <= 1, f"finetune.Run.share is {self.share}; it is a share of the loss, 0 to 1")
        if self.teacher is not None:
            self.teacher.check_student(self)
            require(self.mtp_weight == 0, "finetune.Run.mtp_weight is not 0; a teacher has nothing to say of it")
        not_empty(self, "examples", "name one stage at least that wrote examples")

    @property
    def layout(self) -> Layout:
        return Layout(self.mesh, self.dtype)


def describe(cfg: Run, place: Place) -> list[str]:
    parameters, rows = supervised.describe(cfg)
    return [parameters, f"the examples of {', '.join(cfg.examples)}, {cfg.epochs} times", rows]


def run(cfg: Run, place: Place) -> None:
    tokenizer = Tokenizer(place.other(cfg.data))
    tokenizer.check(cfg.model.vocabulary)
    found = [example for stage in cfg.examples for example in examples.read(place.other(stage))]
    packed, used = pack(found, tokenizer, cfg.row_length)
    require(used > 0, f"{place.name}: {', '.join(cfg.examples)} wrote no example that fits {cfg.row_length} tokens")
    steps = math.ceil(cfg.epochs * len(packed["tokens"]) / cfg.rows)
    with jax.set_mesh(cfg.mesh.make()):
        first = lambda: policies.load(place.other(cfg.init), cfg.model, cfg.layout)  # noqa: E731
        summary = supervised.train(cfg, place, packed, steps, first, **_taught(cfg, place))
    place.finish({"examples": used, "too_long": len(found) - used} | summary)


def pack(found: list[examples.Example], tokenizer: Tokenizer, length: int) -> tuple[collate.Packed, int]:
    """-> (the arrays of `Rows` and `weights`, 1 on the targets of completions, EOS included; how many examples fit)."""
    prompts = tokenizer.encode_all([example.prompt for example in found])
    completions = tokenizer.encode_all([example.completion for example in found])
    fits = [
        (p, [*c, tokenizer.eos]) for p, c in zip(prompts, completions, strict=True) if len(p) + len(c) + 1 <= length
    ]
    packed, places = collate.pack([p + c for p, c in fits], length)
    # The target at place s is token s + 1.
    learned = [np.arange(1, len(p) + len(c)) >= len(p) for p, c in fits]
    packed["weights"] = packing.fill(packed["tokens"].shape, places, learned, np.int32)
    return packed, len(fits)


def _taught(cfg: Run, place: Place) -> dict:
    """What `supervised.train` wants besides, where there is a teacher."""
    if cfg.teacher is None:
        return {}
    policy = policies.load(place.other(cfg.teacher.init), cfg.teacher.model, cfg.layout)
    model = Model(cfg.teacher.model, cfg.layout, remat=False)
    lesson = jax.jit(partial(distill.lesson, model=model, top=cfg.top))
    return {
        "loss": partial(distill.forward_kl, share=cfg.share),
        "taught": lambda batch, count: lesson(policy, batch, count),
    }
