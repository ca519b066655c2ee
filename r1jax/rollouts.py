"""One rollout after another: which questions, their responses, what rules and judges say of them, and under which
log-probabilities they were drawn.

A rollout is a function of the seed, its number, the policy and the positions in the feed, all of which the checkpoint
knows.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from r1jax import collate, experience, responses
from r1jax.base.fields import require
from r1jax.base.mesh import Mesh
from r1jax.base.metrics import Journal
from r1jax.base.place import Place
from r1jax.data import feed, mixture
from r1jax.data.questions import Question, Task
from r1jax.data.template import Template
from r1jax.data.tokenizer import Tokenizer
from r1jax.judging import Judge, Judges, Valuer
from r1jax.learn import grpo
from r1jax.learn.grpo import Grpo
from r1jax.learn.likelihood import Model, score_all
from r1jax.model import cost, lm
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout
from r1jax.policies import Teacher
from r1jax.reward.pool import Pool
from r1jax.reward.rules import Reward
from r1jax.rollout.sampler import Sampler
from r1jax.scoring import Scoring


class Settings(Protocol):
    """What the Run of such a stage says; stages.reinforce.Run explains the fields."""

    data: str
    task: Task
    template: Template
    model: Transformer
    mesh: Mesh
    layout: Layout
    sampler: Sampler
    algorithm: Grpo
    rewards: tuple[Reward, ...]
    teacher: Teacher | None
    judges: tuple[Judge, ...]
    mixture: tuple[mixture.Share, ...]
    shape: experience.Shape
    sequences: int
    steps: int
    questions: int
    dynamic_sampling: int | None
    dtype: str
    show: int
    show_every: int
    seed: int


class Rollouts:
    """Makes the rollouts of a run. scorers: the processes that score, if any. The mesh of training must be in force."""

    def __init__(self, cfg: Settings, place: Place, journal: Journal, scorers: Pool | None):
        self._cfg, self._journal, self._scorers = cfg, journal, scorers
        self._tokenizer = Tokenizer(place.other(cfg.data))
        pool = cfg.task.questions("rl", place.other(cfg.data))
        require(len(pool) > 0, f"{place.name}: the task has no questions to train on; its split rl is empty")
        self._pools = _pools(cfg, pool)
        self._responder = responses.Responder(
            cfg.model, cfg.mesh.for_rollout, cfg.dtype, cfg.sampler, cfg.template, self._tokenizer
        )
        for pool in self._pools.values():
            self._responder.prompts(pool)  # one that is too long is found now
        self._scores = self._refers = _scores(cfg, cfg.model)
        if cfg.teacher is not None:
            self._refers = _scores(cfg, cfg.teacher.model)
        valuer = Valuer(cfg.model, cfg.layout, cfg.shape.rows, cfg.shape.length)
        self._weights = {judge.name: judge.weight for judge in cfg.judges}
        self._judges = Judges(cfg.judges, place, valuer, self._tokenizer)

    def next(
        self, host: dict, policy: lm.Policy, reference: lm.Policy | None
    ) -> tuple[experience.Experience, dict[str, float]]:
        """Samples and scores one rollout; advances `rollout` and `positions` in `host` -> (Experience, metrics). While
        the scorers work, the policies' log-probabilities are computed, unless dynamic sampling waits for the scores."""
        cfg = self._cfg
        began, first = time.monotonic(), host["rollout"]
        view = self._responder.view(policy)
        kept, tries, sampled_at, work = [], [], [], []
        for _ in range(cfg.dynamic_sampling or 1):
            questions = self._questions(host)
            sampled = self._responder.sample(view, questions, seed=cfg.seed, rollout=host["rollout"])
            sampled_at.append(time.monotonic())
            work.append(cost.sampling(np.array([len(prompt) for prompt in sampled.prompts]), sampled.lengths))
            tries.append(Scoring(questions, sampled, cfg.rewards, self._tokenizer, self._scorers))
            tries[-1].add(self._judges.columns(questions, sampled, host["step"], cfg.steps), self._weights)
            host["rollout"] += 1
            wanted = np.ones(cfg.questions, bool) if cfg.dynamic_sampling is None else tries[-1].scored.undecided
            kept += [(tries[-1], q) for q in np.flatnonzero(wanted)]
            if len(kept) >= cfg.questions:
                break
        else:  # not enough after all rollouts: those of the last one fill up
            kept += [(tries[-1], q) for q in np.flatnonzero(~wanted)]
        del view
        kept = kept[: cfg.questions]
        order = np.random.default_rng((cfg.seed, host["rollout"])).permutation(cfg.sequences)
        held = experience.of(kept, cfg.sampler.window, order)
        told = {"time/rollout": sampled_at[0] - began, "rollout/tries": float(len(tries))}
        began = time.monotonic()
        if cfg.algorithm.rescores:
            held = held.replace(old=self._logp(held, self._scores, policy))
            work.append(cost.sequences(held.ends))
        if reference is not None:
            held = held.replace(reference=self._logp(held, self._refers, reference))
            work.append(cost.sequences(held.ends))
        told |= {"time/reference": time.monotonic() - began}
        told |= dict(zip(("forward/tokens", "forward/keys"), map(sum, zip(*work, strict=True)), strict=True))
        advantages = grpo.advantages(np.stack([rollout.scored.rewards[q] for rollout, q in kept]), cfg.algorithm)
        told |= tries[0].scored.metrics() | {"time/score": tries[0].seconds}
        told |= {"time/tokens_per_second": told["rollout/tokens"] / told["time/rollout"]}  # of sampling
        for rollout, done in enumerate(tries, first):
            if rollout % cfg.show_every == 0:
                self._journal.samples(host["step"] + 1, done.scored.examples(cfg.show, self._tokenizer))
        return held.replace(advantages=advantages.reshape(-1)), told

    def _questions(self, host: dict) -> list[Question]:
        """The next questions of each domain, none twice: it would get the same samples again, since their keys are of
        the question."""
        cfg, found = self._cfg, []
        counts = {"": cfg.questions}
        if cfg.mixture:
            counts = mixture.counts(cfg.mixture, cfg.questions, host["step"], cfg.steps)
        for domain, count in counts.items():
            pool = self._pools[domain]
            position = feed.whole(host["positions"].get(domain, 0), count, len(pool))
            found += [pool[i] for i in feed.take(cfg.seed, position, count, len(pool))]
            host["positions"] = host["positions"] | {domain: position + count}
        return found

    def _logp(self, held: experience.Experience, scores: Callable, policy: lm.Policy) -> np.ndarray:
        """Log-probabilities [B, S] of the rollout's responses under a policy."""
        cfg, members = self._cfg, np.arange(self._cfg.sequences)
        rows, count, places = experience.rows_of(held, members, cfg.shape)
        count = collate.put(np.int32(count), jax.P())
        logp = scores(policy, collate.put_rows(rows, cfg.layout), count, cfg.sampler.temperature)
        if jax.process_count() > 1:
            logp = multihost_utils.process_allgather(logp, tiled=True)
        return experience.gather(held, members, places, np.asarray(logp))


def _scores(cfg: Settings, model: Transformer) -> Callable:
    """Log-probabilities of packed rows under a policy of this shape, jitted."""
    return jax.jit(partial(score_all, model=Model(model, cfg.layout, remat=False)))


def _pools(cfg: Settings, questions: Sequence[Question]) -> dict[str, Sequence[Question]]:
    """The questions by the domains of the mixture; all of them under '' where there is no mixture."""
    if not cfg.mixture:
        return {"": questions}
    pools = {share.domain: [q for q in questions if q.domain == share.domain] for share in cfg.mixture}
    for domain, pool in pools.items():
        there = ", ".join(sorted({q.domain for q in questions}))
        require(bool(pool), f"mixture.Share.domain {domain!r}: the task has no such questions; there are {there}")
    return pools
