"""AdamW (1711.05101) with warm-up, a schedule and a clip of the global norm, from optax."""

import dataclasses
from typing import Literal

import jax
import optax

from r1jax.base.fields import above, at_least, between, check, require


def _matrices(params):
    """Which parameters decay: matrices, no norms or biases (a stack of norms over layers has two dimensions as
    well)."""
    return jax.tree_util.tree_map_with_path(lambda path, w: not path[-1].key.endswith(("scale", "bias")), params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """learning_rate: the peak, reached after `warmup` optimizer steps. schedule: 'constant' or 'cosine' down to
    `final` x the peak at the run's end. clip: bound of the gradient's global norm. moments: dtype of the first
    one.
    """

    learning_rate: float
    warmup: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    final: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    moments: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        check(self)
        above(0, self, "learning_rate", "clip", "eps")
        at_least(0, self, "warmup", "weight_decay")
        between(0, 1, self, "final", "b1", "b2")
        require(max(self.b1, self.b2) < 1, "AdamW.b1 and b2 must be below 1: a mean that never forgets has no scale")

    def rate(self, steps: int) -> optax.Schedule:
        """The learning rate at each of `steps` optimizer steps."""
        require(self.warmup <= steps, f"AdamW.warmup {self.warmup} is longer than the run of {steps} steps")
        if self.schedule == "constant":
            after = optax.schedules.constant_schedule(self.learning_rate)
        else:
            after = optax.schedules.cosine_decay_schedule(self.learning_rate, max(steps - self.warmup, 1), self.final)
        if self.warmup == 0:  # optax takes a warm-up of no steps for one that never ends
            return after
        rise = optax.schedules.linear_schedule(0.0, self.learning_rate, self.warmup)
        return optax.schedules.join_schedules([rise, after], [self.warmup])

    def make(self, steps: int) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.clip),
            optax.adamw(
                self.rate(steps),
                self.b1,
                self.b2,
                self.eps,
                weight_decay=self.weight_decay,
                mu_dtype=self.moments,
                mask=_matrices,
            ),
        )
