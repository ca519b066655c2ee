"""What a step carries and what it reads."""

import flax.struct
import jax
import optax

from r1jax.model.lm import Policy, Rows


@flax.struct.dataclass
class State:
    """step: optimizer steps taken or skipped, int32. skipped: skipped ones in a row, whose gradient was not finite."""

    step: jax.Array
    policy: Policy
    optimizer: optax.OptState
    skipped: jax.Array

    def items(self) -> dict:
        """The checkpoint's items: `policy` is all that evaluation, export and later stages read."""
        return {
            "policy": self.policy,
            "optimizer": {"state": self.optimizer, "step": self.step, "skipped": self.skipped},
        }

    @classmethod
    def of(cls, items: dict) -> "State":
        """The state of `items()`."""
        rest = items["optimizer"]
        return cls(step=rest["step"], policy=items["policy"], optimizer=rest["state"], skipped=rest["skipped"])


@flax.struct.dataclass
class Batch:
    """Supervised rows. In a step every array has a leading axis M of microbatches; `rows` are [M, B, T].

    weights [M, B, T]: what each target's loss counts for; they sum to one over the whole batch, so that sums over
    microbatches and devices need no division. row_weight []: one over the number of rows that hold tokens.
    """

    rows: Rows
    weights: jax.Array
    row_weight: jax.Array


@flax.struct.dataclass
class PolicyBatch(Batch):
    """Rows of sampled responses. weights are 0 on prompts and padding.

    advantages, old_logp, sampled_logp, reference_logp [M, B, T] float32, aligned with the targets. old: the policy
    before the update; sampled: what the sampler recorded; reference: what the KL term pulls to. temperature []: the one
    that all of them were taken at.
    """

    advantages: jax.Array
    old_logp: jax.Array
    sampled_logp: jax.Array
    reference_logp: jax.Array
    temperature: jax.Array


@flax.struct.dataclass
class LabelledBatch(Batch):
    """Rows of responses that somebody judged. weights are 0 but at the last token of a response, where labels [M, B, T]
    float32 stand as well: +1 chosen and -1 rejected of a pair, whose two weights are the same, or 1 and 0."""

    labels: jax.Array
