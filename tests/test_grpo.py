"""Every term of the policy loss against its formula, written a second time in float64, and against numbers by hand."""

import importlib.util  # noqa: F401  gin uses it without importing it
import math
from functools import partial
from pathlib import Path

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small

from r1jax import collate
from r1jax.base.fields import UserError
from r1jax.base.mesh import Mesh
from r1jax.experience import Shape, batch_of, rows_of, spread
from r1jax.learn import grpo, microbatch
from r1jax.learn.grpo import Grpo
from r1jax.model.layout import Layout

ALGORITHMS = Path(__file__).parents[1] / "configs" / "algorithms"
WINDOW = 10


# Advantages and weights.


def test_advantages_by_hand():
    """Rewards 3, 1, 1, 3: mean 2, deviation 1 (over n). Rewards 1, 0, 0, 0: the others' means are 0, 1/3, 1/3, 1/3."""
    rewards = np.array([[3.0, 1, 1, 3], [1, 0, 0, 0], [0.7, 0.7, 0.7, 0.7]])
    std = grpo.advantages(rewards, Grpo(advantage="std", std_eps=0.25))
    deviation = math.sqrt(3) / 4
    np.testing.assert_allclose(std[0], np.array([1, -1, -1, 1]) / 1.25, rtol=1e-7)
    np.testing.assert_allclose(std[1], np.array([0.75, -0.25, -0.25, -0.25]) / (deviation + 0.25), rtol=1e-6)
    mean = grpo.advantages(rewards, Grpo(advantage="mean"))
    np.testing.assert_allclose(mean[:2], [[1, -1, -1, 1], [0.75, -0.25, -0.25, -0.25]], rtol=1e-7)
    others = grpo.advantages(rewards, Grpo(advantage="leave_one_out"))
    np.testing.assert_allclose(others[1], [1, -1 / 3, -1 / 3, -1 / 3], rtol=1e-7)
    for values in (std, mean, others):  # a group without variance teaches nothing, whatever rounding does to its mean
        np.testing.assert_allclose(values[2], 0, atol=1e-11)


def test_leave_one_out_is_the_centred_reward_times_g_over_g_minus_1():
    rewards = np.random.default_rng(0).normal(size=(5, 7))
    others = (rewards.sum(1, keepdims=True) - rewards) / 6
    got = grpo.advantages(rewards, Grpo(advantage="leave_one_out"))
    np.testing.assert_allclose(got, rewards - others, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(got, 7 / 6 * grpo.advantages(rewards, Grpo(advantage="mean")), rtol=1e-5, atol=1e-7)
    with pytest.raises(UserError, match="at least two samples"):
        grpo.advantages(rewards[:, :1], Grpo(advantage="leave_one_out"))


def test_token_weights_by_hand():
    """Responses of 2, 4 and 10 tokens; the last one ran into the limit."""
    lengths, all_kept, kept = np.array([2, 4, 10]), np.array([True] * 3), np.array([True, True, False])
    weights = lambda kept, **choices: grpo.token_weights(lengths, kept, Grpo(**choices))  # noqa: E731
    close = partial(np.testing.assert_allclose, rtol=1e-6)
    close(weights(all_kept, normaliser="sequence"), [1 / 6, 1 / 12, 1 / 30])  # GRPO: 1 / (length x 3 sequences)
    close(weights(all_kept, normaliser="token"), [1 / 16] * 3)  # DAPO: 16 tokens in all, whosever
    close(weights(all_kept, normaliser="constant", length=100), [1 / 300] * 3)  # Dr. GRPO
    close(weights(kept, normaliser="sequence"), [1 / 4, 1 / 8, 0])  # the masked one is not counted in the divisor
    close(weights(kept, normaliser="token"), [1 / 6, 1 / 6, 0])
    close(weights(kept, normaliser="constant", length=100), [1 / 200, 1 / 200, 0])
    for choices in ({}, {"normaliser": "token"}, {"normaliser": "constant", "length": 5}):
        close(weights(np.array([False] * 3), **choices), 0)  # none kept: no loss, and no division by zero


# The loss against numbers that a person can check.


def tiny(log_ratio, advantages, reference=None, mismatch=None) -> grpo.PolicyBatch:
    """Two responses of three tokens, one a row, each token weighing 1/6. The policy's log-probabilities are all -2."""
    grid = lambda a: jnp.broadcast_to(jnp.asarray(a, jnp.float32), (2, 3))  # noqa: E731
    ones = jnp.ones((2, 3), jnp.int32)
    old = grid(-2.0) - grid(log_ratio)
    return grpo.PolicyBatch(
        rows=grpo.lm.Rows(ones, ones, ones, ones),
        weights=grid(1 / 6),
        row_weight=jnp.float32(0.5),
        advantages=grid(np.asarray(advantages)[:, None]),
        old_logp=old,
        sampled_logp=old - grid(0 if mismatch is None else mismatch),
        reference_logp=grid(-2.0) + grid(0 if reference is None else reference),
        temperature=jnp.float32(1),
    )


@partial(jax.jit, static_argnames=("hp", "layout"))
def value_and_slope(logp, batch, hp, layout=small.ONE):
    (value, sums), slope = jax.value_and_grad(partial(grpo.terms, hp=hp, layout=layout), has_aux=True)(logp, batch)
    return value, slope, sums


def loss_of(batch, **choices) -> float:
    return float(value_and_slope(jnp.full((2, 3), -2.0), batch, Grpo(**choices))[0])


RATIOS = np.log([[1, 1.5, 0.5], [1, 1.5, 0.5]])
CASES = {
    # Advantage 1:   min(1, 1) + min(1.5, 1.2) + min(0.5, 0.8)    = 1 + 1.2 + 0.5   =  2.7
    # Advantage -1: -max(1, 1) - max(1.5, 1.2) - max(0.5, 0.8)    = -1 - 1.5 - 0.8  = -3.3; (2.7 - 3.3) / 6 = -0.1
    "clip": (dict(), 0.1),
    # Higher upper bound, 1.28: the first row gives 1 + 1.28 + 0.5 = 2.78; (2.78 - 3.3) / 6
    "clip higher": (dict(clip_high=0.28), 0.52 / 6),
    # No ratio above 1.2 where A < 0: the second row gives -1 - 1.2 - 0.8 = -3
    "dual clip": (dict(dual_clip=1.2), 0.3 / 6),
    # 3 - 3
    "plain": (dict(objective="plain"), 0.0),
    # Clipped ratios 1, 1.2, 0.8 x advantage x log pi = -2 in both rows: they cancel
    "weight": (dict(objective="weight"), 0.0),
    # Geometric mean (1 x 1.5 x 0.5)^(1/3) = 0.9086 in both rows, inside the band: 3 x 0.9086 - 3 x 0.9086
    "sequence": (dict(ratio="sequence"), 0.0),
    # In a band of [0.95, 1.05]: 3 x min(0.9086, 0.95) - 3 x max(0.9086, 0.95); over 6
    "sequence, clipped": (dict(ratio="sequence", clip_low=0.05, clip_high=0.05), (0.95 - 0.75 ** (1 / 3)) / 2),
}


@pytest.mark.parametrize(("choices", "wanted"), CASES.values(), ids=CASES)
def test_loss_by_hand(choices, wanted):
    with small.on(Mesh()):
        assert loss_of(tiny(RATIOS, [1, -1]), kl_weight=0.0, **choices) == pytest.approx(wanted, abs=1e-6)


def test_kl_term_by_hand():
    """ref/pi of 2, 1 and 1/2: k3 = (1 - ln 2) + 0 + (ln 2 - 1/2) = 1/2; k1 = -ln 2 + ln 2 = 0; k2 = ln(2)^2. On policy,
    with advantages 1 and -1, nothing else is left; each row has a weight of 1/6 a token, so two rows give a third."""
    batch = tiny(0, [1, -1], reference=np.log([2, 1, 0.5]))
    with small.on(Mesh()):
        for kl, total in {"k3": 0.5, "k1": 0.0, "k2": math.log(2) ** 2}.items():
            assert loss_of(batch, kl=kl, kl_weight=0.3) == pytest.approx(0.3 * total / 3, abs=1e-7)


def test_mismatch_by_hand():
    """pi_old / pi_sampled of 1, 3 and 1/3, on policy, advantages 1 and 0: cut, (1 + 2 + 1/3) / 6; masked, 1 / 6."""
    batch = tiny(0, [1, 0], mismatch=np.log([1, 3, 1 / 3]))
    with small.on(Mesh()):
        assert loss_of(batch, kl_weight=0.0) == pytest.approx(-3 / 6, abs=1e-6)
        assert loss_of(batch, kl_weight=0.0, mismatch="truncate") == pytest.approx(-(10 / 3) / 6, abs=1e-6)
        assert loss_of(batch, kl_weight=0.0, mismatch="mask") == pytest.approx(-1 / 6, abs=1e-6)


def test_clip_of_ten():
    """DeepSeek-R1's band [-9, 11]: only a ratio above 11 with A > 0 is cut; with A < 0 nothing bounds the loss."""
    batch = tiny(np.log([[12, 5, 1e-4], [12, 5, 1e-4]]), [1, -1])
    with small.on(Mesh()):
        r1 = dict(clip_low=10.0, clip_high=10.0, kl_weight=0.0)
        # (11 + 5 + 0.0001) - (12 + 5 + 0.0001) = -1; with the dual clip at 3 the second row is -3 - 3 - 0.0001
        assert loss_of(batch, **r1) == pytest.approx(1 / 6, abs=1e-5)
        assert loss_of(batch, dual_clip=3.0, **r1) == pytest.approx(-10 / 6, abs=1e-5)
        _, slope, _ = value_and_slope(jnp.full((2, 3), -2.0), batch, Grpo(**r1))
    np.testing.assert_allclose(slope, -np.array([[0, 5, 1e-4], [-12, -5, -1e-4]]) / 6, rtol=1e-5)


# The estimators of the KL divergence.


def test_kl_estimators():
    rng = np.random.default_rng(0)
    logp, reference = rng.normal(-2, 1, 100), rng.normal(-2, 1, 100)
    formulas = {
        "k1": logp - reference,
        "k2": (logp - reference) ** 2 / 2,
        "k3": np.exp(reference - logp) - (reference - logp) - 1,
    }
    for name, wanted in formulas.items():
        got = grpo.kl_estimate(jnp.float32(logp), jnp.float32(reference), name)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_expected_kl_and_its_gradient():
    """Over all 6 tokens of a distribution: k1 and k3 have the divergence as their mean; the mean gradient of k1 is 0,
    of k2 that of KL(pi || ref), of k3 that of KL(ref || pi)."""
    rng = np.random.default_rng(1)
    z, ref = jnp.float32(rng.normal(size=6)), jax.nn.log_softmax(jnp.float32(rng.normal(size=6)))
    p, q = np.exp(jax.nn.log_softmax(z)), np.exp(ref)
    mean = lambda z, name: (p * grpo.kl_estimate(jax.nn.log_softmax(z), ref, name)).sum()  # noqa: E731  p is data
    forward = (p * np.log(p / q)).sum()
    # By hand, for logits: d KL(pi || ref) / dz = p (log p/q - KL), d KL(ref || pi) / dz = p - q.
    slopes = {"k1": 0 * p, "k2": p * (np.log(p / q) - forward), "k3": p - q}
    for name, wanted in slopes.items():
        np.testing.assert_allclose(jax.grad(mean)(z, name), wanted, atol=1e-6)
    assert forward > 0.1
    assert mean(z, "k1") == pytest.approx(forward, abs=1e-6) and mean(z, "k3") == pytest.approx(forward, abs=1e-6)


# Every combination against the formula.


def formula(logp, frozen, held, members, hp: Grpo) -> float:
    """The loss of whole sequences in float64, sequence by sequence. `frozen` is what a stop_gradient holds fast."""
    kept = {i for i in members if held.finished[i] or not hp.mask_truncated}
    sizes = {i: int(held.ends[i] - held.starts[i]) for i in kept}
    total = 0.0
    for i in kept:
        cells = slice(held.starts[i], held.ends[i])
        new, fixed, A = logp[i, cells], frozen[i, cells], float(held.advantages[i])
        old, sampled, ref = (np.float64(a[i, cells]) for a in (held.old, held.sampled, held.reference))
        match hp.ratio:
            case "token":
                r, r_fixed = np.exp(new - old), np.exp(fixed - old)
            case "sequence":
                r, r_fixed = (np.full(len(new), math.exp(np.mean(x - old))) for x in (new, fixed))
            case "sequence_token":
                r_fixed = math.exp(np.mean(fixed - old))
                r = r_fixed * np.exp(new - fixed)
        low, high = 1 - hp.clip_low, 1 + hp.clip_high
        match hp.objective:
            case "clip":
                gain = np.minimum(r * A, np.clip(r, low, high) * A)
                if hp.dual_clip is not None and A < 0:
                    gain = np.maximum(gain, hp.dual_clip * A)
            case "weight":
                gain = np.clip(r_fixed, low, high) * A * new
            case "plain":
                gain = r * A
        w = np.exp(old - sampled)
        if hp.mismatch == "truncate":
            gain = gain * np.minimum(w, hp.mismatch_cap)
        elif hp.mismatch == "mask":
            gain = gain * np.where((w > hp.mismatch_cap) | (w < 1 / hp.mismatch_cap), 0, w)
        x = ref - new
        kl = {"k1": -x, "k2": x**2 / 2, "k3": np.exp(x) - x - 1}[hp.kl]
        loss = -(gain - hp.kl_weight * kl).sum()
        match hp.normaliser:
            case "sequence":
                total += loss / sizes[i] / len(kept)
            case "token":
                total += loss / sum(sizes.values())
            case "constant":
                total += loss / hp.length / len(kept)
    return total


def formula_slope(logp, held, members, hp: Grpo) -> np.ndarray:
    """Its gradient by central differences."""
    slope, step = np.zeros_like(logp), 1e-6
    for i in members:
        for s in range(held.starts[i], held.ends[i]):
            up, down = logp.copy(), logp.copy()
            up[i, s] += step
            down[i, s] -= step
            slope[i, s] = (formula(up, logp, held, members, hp) - formula(down, logp, held, members, hp)) / (2 * step)
    return slope


CHOICES = {
    "grpo": dict(kl_weight=0.04),
    "clip, narrow": dict(clip_low=0.05, clip_high=0.1),
    "dual clip": dict(dual_clip=1.1, kl="k2", kl_weight=0.5),
    "dr. grpo": dict(normaliser="constant", length=7, kl="k1", kl_weight=0.1),
    "dapo": dict(normaliser="token", clip_high=0.28, kl_weight=0.0, mask_truncated=True),
    "gspo": dict(ratio="sequence", clip_low=0.05, clip_high=0.05),
    "gspo, truncated masked": dict(ratio="sequence", clip_low=0.05, clip_high=0.05, mask_truncated=True),
    "gspo-token": dict(ratio="sequence_token", clip_low=0.05, clip_high=0.05),
    "cispo": dict(objective="weight", normaliser="token", clip_low=1.0, clip_high=0.1),
    "sequence weight": dict(objective="weight", ratio="sequence", clip_low=0.05, clip_high=0.05),
    "rloo": dict(objective="plain", normaliser="constant", length=1),
    "truncated mismatch": dict(mismatch="truncate", mismatch_cap=1.2),
    "masked mismatch": dict(mismatch="mask", mismatch_cap=1.3, ratio="sequence_token"),
}


def placed(values, held, members, shape):
    """Per-token values [B, S] of the members where the packed rows have their targets, [M, B, T]."""
    rows, _, places = rows_of(held, members, shape)
    return spread(held, members, places, values.astype(np.float32), rows["tokens"].shape)


def computed(logp, held, members, shape: Shape, hp: Grpo, layout: Layout):
    """Loss, gradient [M, B, T] and sums of packed rows, added up over the microbatches; padding holds no numbers."""
    batch, count = batch_of(held, members, shape, hp, 1.0, layout)
    packed = placed(logp, held, members, shape)
    packed = np.where(np.asarray(batch.weights) > 0, packed, np.nan).astype(np.float32)
    total, slopes, sums = 0.0, np.zeros(packed.shape), {}
    for m in range(int(count)):
        one = collate.put(packed[m], layout.BT)
        value, slopes[m], told = value_and_slope(one, microbatch.take(batch, m), hp, layout)
        total += float(value)
        sums = {name: sums.get(name, 0) + float(told[name]) for name in told}
    return total, slopes, sums


def rollout():
    """Eight responses; the policy has moved on from where they were sampled."""
    held = small.experience(0, 8, WINDOW)
    logp = np.float64(held.old) + np.random.default_rng(3).normal(0, 0.25, held.old.shape)
    return held, logp, np.array([6, 0, 3, 5, 1, 7, 2])


@pytest.mark.parametrize("choices", CHOICES.values(), ids=CHOICES)
def test_loss_and_gradient_equal_the_formula(choices):
    """In packed rows of up to two sequences each. The tolerances are float32's."""
    (held, logp, members), hp = rollout(), Grpo(**choices)
    shape = Shape(rows=8, length=2 * WINDOW)
    with small.on(Mesh()):
        value, slopes, _ = computed(logp, held, members, shape, hp, small.ONE)
    assert value == pytest.approx(formula(logp, logp, held, members, hp), rel=1e-5, abs=1e-6)
    wanted = formula_slope(logp, held, members, hp)
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(slopes, placed(wanted, held, members, shape), rtol=1e-4, atol=1e-6)


def test_metrics_equal_their_formulas():
    (held, logp, members), hp = rollout(), Grpo(clip_low=0.1, clip_high=0.1)
    with small.on(Mesh()):
        _, _, sums = computed(logp, held, members, Shape(rows=8, length=2 * WINDOW), hp, small.ONE)
    cells = [(i, s) for i in members for s in range(held.starts[i], held.ends[i])]
    i, s = np.array(cells).T
    old, sampled, ref = (np.float64(a)[i, s] for a in (held.old, held.sampled, held.reference))
    ratio, A, x = np.exp(logp[i, s] - old), held.advantages[i], ref - logp[i, s]
    wanted = {
        "kl": (np.exp(x) - x - 1).sum(),
        "ratio": ratio.sum(),
        "mismatch": np.abs(old - sampled).sum(),
        "clipped": (((A > 0) & (ratio > 1.1)) | ((A < 0) & (ratio < 0.9))).sum(),
    }
    assert 0 < wanted["clipped"] < len(cells)
    assert sums == pytest.approx(wanted, rel=1e-5)


SPLITS = {
    "one sequence a row": (Shape(rows=7, length=WINDOW), Mesh()),
    "one row a microbatch": (Shape(rows=1, length=2 * WINDOW), Mesh()),
    "all in one row": (Shape(rows=1, length=7 * WINDOW), Mesh()),
    "eight devices": (Shape(rows=4, length=2 * WINDOW), Mesh(data=2, fsdp=2, context=2)),
}


@pytest.mark.parametrize("choices", ["grpo", "dapo", "gspo", "cispo"])
def test_loss_does_not_know_how_it_was_split(choices):
    (held, logp, members), hp = rollout(), Grpo(**CHOICES[choices])
    wanted = formula(logp, logp, held, members, hp)
    for name, (shape, mesh) in SPLITS.items():
        with small.on(mesh):
            value, _, _ = computed(logp, held, members, shape, hp, Layout(mesh))
        assert value == pytest.approx(wanted, rel=1e-5, abs=1e-6), name


# The named algorithms.

PUBLISHED = {
    "grpo": Grpo(clip_low=10.0, clip_high=10.0, normaliser="sequence", advantage="std", kl="k3", kl_weight=0.001),
    "dr_grpo": Grpo(normaliser="constant", length=3_000, advantage="mean", kl_weight=0.0),
    "dapo": Grpo(clip_low=0.2, clip_high=0.28, normaliser="token", advantage="std", kl_weight=0.0),
    "gspo": Grpo(ratio="sequence", clip_low=3e-4, clip_high=4e-4, normaliser="sequence", kl_weight=0.0),
    "cispo": Grpo(objective="weight", clip_low=1.0, clip_high=4.0, normaliser="token", kl_weight=0.0),
    "rloo": Grpo(objective="plain", normaliser="constant", length=1, advantage="leave_one_out", kl_weight=0.0),
}


@pytest.mark.parametrize("name", sorted(file.stem for file in ALGORITHMS.glob("*.gin")))
def test_named_algorithms_have_the_published_values(name):
    gin.parse_config_file(str(ALGORITHMS / f"{name}.gin"))
    assert gin.get_configurable(Grpo)() == PUBLISHED[name]


def test_choices_that_make_no_sense_are_refused():
    wrong = {
        "distances from 1": dict(clip_low=-0.1),
        "above 1": dict(dual_clip=0.9),
        "belongs to Grpo.normaliser": dict(length=5),
        "and only to it": dict(normaliser="constant"),
        "must not be negative": dict(kl_weight=-1.0),
        "at least 1": dict(mismatch_cap=0.5),
    }
    for message, choices in wrong.items():
        with pytest.raises(UserError, match=message):
            Grpo(**choices)
