"""Group relative policy optimization (DeepSeekMath, 2402.03300, equations 3 and 4) with its terms as separate choices.

For a sequence i of a group, token t, ratio r = pi / pi_old and advantage A:

    L = - sum over tokens of w (min(r A, clip(r, 1 - low, 1 + high) A) - beta D)

The named algorithms (GRPO, Dr. GRPO, DAPO, GSPO, CISPO, RLOO) are gin files over these choices (configs/algorithms/).
Advantages and weights are computed over a whole rollout or minibatch before it is split over devices and microbatches,
so the loss is a plain sum.
Traps: k1 in the loss has an expected gradient of zero on policy; with a clip of 10 (DeepSeek-R1's value) the lower
bound never binds, and negative advantages are unbounded unless `dual_clip` is set.
"""

import dataclasses
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.base.fields import check, require
from r1jax.learn.likelihood import Model, score
from r1jax.learn.state import PolicyBatch
from r1jax.model import lm
from r1jax.model.layout import Layout

RATIO_BOUND = 20.0  # log-ratios beyond this are cut before exp, against overflow


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grpo:
    """The choices.

    ratio: 'token'; 'sequence' (GSPO, 2507.18071, equation 7: the geometric mean over the response); 'sequence_token'
        (GSPO-token, equation 14: the sequence's value, the token's gradient).
    objective: 'clip' as above; 'weight' (CISPO, 2506.13585, equation 4): clipped ratio, detached, x A x log pi;
        'plain': r A, no clip (RLOO, 2402.14740).
    clip_low, clip_high: the band is [1 - clip_low, 1 + clip_high]. dual_clip: bound of r where A < 0; None: none.
    normaliser: what a token's loss is divided by: 'sequence': its response's length x sequences (GRPO); 'token': all
        response tokens (DAPO); 'constant': `length` x sequences (Dr. GRPO).
    advantage: 'std': (r - mean) / (std + std_eps) in the group, std over n; 'mean': r - mean; 'leave_one_out': r minus
        the mean of the others.
    kl, kl_weight: estimator of D, in the loss: k1 = log pi/ref, k2 = k1^2 / 2, k3 = ref/pi - log ref/pi - 1.
    mismatch: correction by w = pi_old / pi_sampled per token, with pi_old scored anew: 'truncate':
        min(w, mismatch_cap); 'mask': tokens outside [1 / mismatch_cap, mismatch_cap] drop out; None: pi_old is what
        the sampler recorded.
    mask_truncated: responses that ran into the token limit carry no loss (DAPO's overlong filter).
    """

    ratio: Literal["token", "sequence", "sequence_token"] = "token"
    objective: Literal["clip", "weight", "plain"] = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    normaliser: Literal["sequence", "token", "constant"] = "sequence"
    length: int | None = None
    advantage: Literal["std", "mean", "leave_one_out"] = "std"
    std_eps: float = 1e-4
    kl: Literal["k1", "k2", "k3"] = "k3"
    kl_weight: float = 0.001
    mismatch: Literal["truncate", "mask"] | None = None
    mismatch_cap: float = 2.0
    mask_truncated: bool = False

    def __post_init__(self):
        check(self)
        require(
            self.clip_low >= 0 and self.clip_high >= 0, "Grpo.clip_low and clip_high are distances from 1, not negative"
        )
        require(
            self.dual_clip is None or self.dual_clip > 1,
            f"Grpo.dual_clip is {self.dual_clip}; it bounds a ratio, above 1",
        )
        require(
            (self.normaliser == "constant") == (self.length is not None),
            "Grpo.length belongs to Grpo.normaliser = 'constant', and only to it",
        )
        require(self.kl_weight >= 0, f"Grpo.kl_weight is {self.kl_weight}; it must not be negative")
        require(self.mismatch_cap >= 1, f"Grpo.mismatch_cap is {self.mismatch_cap}; it must be at least 1")

    @property
    def rescores(self) -> bool:
        """Whether the policy's log-probabilities are scored anew before the update."""
        return self.mismatch is not None

    @property
    def refers(self) -> bool:
        """Whether a reference policy is needed."""
        return self.kl_weight > 0


def advantages(rewards_QG: np.ndarray, hp: Grpo) -> np.ndarray:
    """Advantages [questions, samples] of a rollout's rewards; float64 in, float32 out. A group without variance gets
    0."""
    rewards = np.asarray(rewards_QG, np.float64)
    centred = rewards - rewards.mean(1, keepdims=True)
    match hp.advantage:
        case "std":
            centred = centred / (rewards.std(1, keepdims=True) + hp.std_eps)
        case "leave_one_out":
            G = rewards.shape[1]
            require(G > 1, "Grpo.advantage = 'leave_one_out' needs at least two samples a question")
            centred = centred * (G / (G - 1))
    return centred.astype(np.float32)


def token_weights(lengths_B: np.ndarray, kept_B: np.ndarray, hp: Grpo) -> np.ndarray:
    """What each response token of a minibatch counts for, [sequences]; `kept_B` False: the response carries no loss.

    The divisor counts kept sequences alone; lengths are in tokens, EOS included."""
    lengths, kept = np.asarray(lengths_B, np.float64), np.asarray(kept_B, bool)
    sequences = max(kept.sum(), 1)
    match hp.normaliser:
        case "sequence":
            weights = 1 / (np.maximum(lengths, 1) * sequences)
        case "token":
            weights = np.full(lengths.shape, 1 / max(lengths[kept].sum(), 1))
        case "constant":
            weights = np.full(lengths.shape, 1 / (hp.length * sequences))
    return np.where(kept, weights, 0).astype(np.float32)


def loss(policy: lm.Policy, batch: PolicyBatch, *, hp: Grpo, model: Model):
    """The loss of one microbatch -> (loss, (sums over response tokens, loads))."""
    scores = score(policy, batch.rows, batch.temperature, model=model)
    value, sums = terms(scores.logp, batch, hp=hp, layout=model.layout)
    live = batch.weights > 0
    sums |= {"tokens": live.sum().astype(jnp.float32), "entropy": (scores.entropy * live).sum()}
    return value, (sums, scores.loads)


def terms(
    logp_BT: jax.Array, batch: PolicyBatch, *, hp: Grpo, layout: Layout
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss as a function of the policy's log-probabilities, and sums for the metrics (each over response
    tokens)."""
    live = batch.weights > 0
    logp = jnp.where(live, logp_BT, 0.0)
    old, sampled, reference = (
        jnp.where(live, a, 0.0) for a in (batch.old_logp, batch.sampled_logp, batch.reference_logp)
    )
    advantage = batch.advantages
    log_ratio = logp - old
    if hp.ratio != "token":
        mean = _segment_mean(log_ratio, live, batch.rows.segments, layout)
        log_ratio = mean if hp.ratio == "sequence" else jax.lax.stop_gradient(mean) + logp - jax.lax.stop_gradient(logp)
    ratio = jnp.exp(jnp.clip(log_ratio, -RATIO_BOUND, RATIO_BOUND))
    banded = jnp.clip(ratio, 1 - hp.clip_low, 1 + hp.clip_high)
    match hp.objective:
        case "clip":
            gain = jnp.minimum(ratio * advantage, banded * advantage)
            if hp.dual_clip is not None:
                gain = jnp.where(advantage < 0, jnp.maximum(gain, hp.dual_clip * advantage), gain)
        case "weight":
            gain = jax.lax.stop_gradient(banded) * advantage * logp
        case "plain":
            gain = ratio * advantage
    correction = jnp.ones_like(ratio)
    if hp.mismatch is not None:
        mismatch = jnp.exp(jnp.clip(old - sampled, -RATIO_BOUND, RATIO_BOUND))
        if hp.mismatch == "truncate":
            correction = jnp.minimum(mismatch, hp.mismatch_cap)
        else:
            correction = mismatch * ((mismatch <= hp.mismatch_cap) & (mismatch >= 1 / hp.mismatch_cap))
    divergence = kl_estimate(logp, reference, hp.kl) if hp.refers else jnp.zeros_like(logp)
    value = -((gain * correction - hp.kl_weight * divergence) * batch.weights).sum()
    clipped = live & (ratio != banded) & ((advantage > 0) == (ratio > banded)) & (advantage != 0)
    total = lambda a: (a * live).sum()  # noqa: E731
    return value, {
        "kl": total(divergence),
        "clipped": total(clipped),
        "ratio": total(ratio),
        "mismatch": total(jnp.abs(old - sampled)),
    }


def kl_estimate(logp: jax.Array, reference: jax.Array, estimator: str) -> jax.Array:
    """Per-token estimates of KL(pi || ref) from samples of pi: k1 (unbiased, any sign), k2, k3 (unbiased, >= 0)."""
    k1 = jnp.clip(logp - reference, -RATIO_BOUND, RATIO_BOUND)
    match estimator:
        case "k1":
            return k1
        case "k2":
            return k1**2 / 2
        case _:
            return jnp.exp(-k1) + k1 - 1


def _segment_mean(values_BT, live_BT, segments_BT, layout: Layout) -> jax.Array:
    """The mean over the live tokens of each token's segment, at every token. A sequence lies in one row, whole."""
    row = jax.P(layout.rows, None)

    @partial(jax.shard_map, in_specs=(row, row, row), out_specs=row)
    @jax.vmap
    def mean(values, live, segments):
        slots = values.shape[0] + 1
        total = jax.ops.segment_sum(values * live, segments, slots)
        count = jax.ops.segment_sum(live.astype(values.dtype), segments, slots)
        return (total / jnp.maximum(count, 1))[segments]

    whole = mean(*(jax.reshard(a, row) for a in (values_BT, live_BT, segments_BT)))
    return jax.reshard(whole, layout.BT)
