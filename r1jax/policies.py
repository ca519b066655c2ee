"""What one stage leaves to the next: its policy."""

import dataclasses
from typing import Any

from etils import epath

from r1jax.base.checkpoint import Store
from r1jax.base.fields import check, require, where
from r1jax.model import lm
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher:
    """A policy to learn from, of the same vocabulary: the stage that trained it, and its shape."""

    init: str
    model: Transformer

    def __post_init__(self):
        check(self)

    def check_student(self, run: Any) -> None:
        """UserError unless the `model` of a stage's Run has the teacher's vocabulary."""
        theirs, ours = self.model.vocabulary, run.model.vocabulary
        require(theirs == ours, f"the teacher has a vocabulary of {theirs}, {where(run, 'model')} one of {ours}")


def before(init: str | None, stage: str) -> str:
    """The stage whose policy a stage reads: `init`, or where that is None, what follows the first underscore of its own
    name, as 'zero' in 'evaluate_zero'."""
    return init or stage.partition("_")[2]


def latest(folder: epath.Path) -> int:
    """The step of a stage's last checkpoint."""
    step = Store(folder / "checkpoints").latest()
    require(step is not None, f"no checkpoint in {folder}; run that stage first, or name another one as init")
    return step


def load(folder: epath.Path, cfg: Transformer, layout: Layout) -> lm.Policy:
    """The policy of a stage's last checkpoint, on the mesh in force."""
    return restore(folder, lm.shapes(cfg, layout))


def restore(folder: epath.Path, shapes: lm.Policy) -> lm.Policy:
    """What a stage left in these shapes: those of a policy or, of a judge, those of its scorer."""
    return Store(folder / "checkpoints").restore(latest(folder), {"policy": shapes})[0]["policy"]
