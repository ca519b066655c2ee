"""Reinforcement learning by GRPO: sample, score, advantage, update (DeepSeek-R1, 2501.12948, sections 2.1 and 2.2).

A rollout is questions x samples sequences from the current policy. Its advantages are computed at once, then it is
split at random into minibatches, one optimizer step each. The reference policy of the KL term is the first policy, and
every `reference_every` steps the latest one.
"""

import dataclasses
import time
from functools import partial
from typing import Literal

import jax
import numpy as np

from r1jax import experience, policies, responses, scoring
from r1jax.base.fields import at_least, check, not_empty, require
from r1jax.base.mesh import Mesh
from r1jax.base.metrics import read
from r1jax.base.place import Place
from r1jax.base.plots import curves
from r1jax.data.mixture import Share, counts
from r1jax.data.questions import Task
from r1jax.data.template import Template
from r1jax.judging import Judge
from r1jax.learn import grpo, update
from r1jax.learn.grpo import Grpo
from r1jax.learn.likelihood import Model
from r1jax.learn.optim import AdamW
from r1jax.learn.state import State
from r1jax.loop import Loop, Saving, spent
from r1jax.model import lm
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout
from r1jax.reward.rules import Reward, distinct
from r1jax.rollout.sampler import Sampler
from r1jax.rollouts import Rollouts

SHOWN = ("reward/mean", "reward/accuracy", "length/mean", "time/tokens_per_second")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """data, init: the stages that prepared the data and trained the first policy.

    questions x sampler.samples sequences are a rollout; `minibatches` optimizer steps each take an equal share of it.
    `steps` and `reference_every` (None: never) count optimizer steps. rows, row_length: shape of a microbatch.
    dynamic_sampling: questions whose samples are all right or all wrong are replaced by fresh ones, from at most that
    many rollouts (DAPO, 2503.14476, section 3.2); None: they stay. show: samples.jsonl gets that many responses, every
    `show_every` rollouts. scorers: worker processes that score, on each host; 0: the trainer does, which suits rewards
    that only read text.

    judges: reward models that score besides (judging.Judge). mixture: the domains that are asked, and in which part
    (data.mixture.Share); empty: the questions as they come. teacher: what the KL term pulls to in place of the first
    policy; with Grpo.kl = 'k2' and a weight of 1 that is on-policy distillation (2306.13649), for the gradient of k2 is
    that of the reverse Kullback-Leibler divergence.
    """

    data: str
    init: str
    task: Task
    template: Template
    model: Transformer
    mesh: Mesh
    sampler: Sampler
    algorithm: Grpo
    rewards: tuple[Reward, ...]
    optimizer: AdamW
    saving: Saving
    steps: int
    questions: int
    rows: int
    row_length: int
    minibatches: int = 1
    reference_every: int | None = 400
    dynamic_sampling: int | None = None
    bias_rate: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = True
    show: int = 4
    show_every: int = 10
    scorers: int = 0
    teacher: policies.Teacher | None = None
    judges: tuple[Judge, ...] = ()
    mixture: tuple[Share, ...] = ()
    seed: int = 0

    def __post_init__(self):
        check(self)
        numbers = ("steps", "questions", "rows", "row_length", "minibatches", "reference_every", "dynamic_sampling")
        at_least(1, self, *numbers, "show_every")
        at_least(0, self, "show", "scorers", "bias_rate")
        not_empty(self, "rewards", "choose at least one reward")
        distinct((*self.rewards, *self.judges))
        require(
            self.sequences % self.minibatches == 0,
            f"reinforce.Run.minibatches {self.minibatches} does not divide the rollout's {self.sequences} sequences",
        )
        require(
            self.steps % self.minibatches == 0,
            f"reinforce.Run.steps {self.steps} is no multiple of minibatches {self.minibatches}: it ends inside one",
        )
        require(
            self.reference_every is None or self.reference_every % self.minibatches == 0,
            f"reinforce.Run.reference_every {self.reference_every} is no multiple of minibatches {self.minibatches}: "
            "the reference changes between rollouts only",
        )
        require(
            self.sampler.window <= self.row_length,
            f"reinforce.Run.row_length {self.row_length} is shorter than the sampler's window {self.sampler.window}",
        )
        if self.teacher is not None:
            require(
                self.algorithm.refers, "reinforce.Run.teacher is there, but Grpo.kl_weight is 0: nothing pulls to it"
            )
            require(self.reference_every is None, "reinforce.Run.reference_every must be None: the teacher stays")
            self.teacher.check_student(self)
        require(self.sampler.samples > 1, "Sampler.samples is 1; a group's advantage needs at least two samples")
        require(self.sampler.temperature > 0, "Sampler.temperature is 0; greedy samples of a question are all the same")

    @property
    def layout(self) -> Layout:
        return Layout(self.mesh, self.dtype)

    @property
    def sequences(self) -> int:
        return self.questions * self.sampler.samples

    @property
    def shape(self) -> experience.Shape:
        return experience.Shape(self.rows, self.row_length)


def describe(cfg: Run, place: Place) -> list[str]:
    responses.check(cfg.model, cfg.mesh.for_rollout, cfg.sampler)
    cfg.optimizer.rate(cfg.steps)
    cfg.layout.check_rows(cfg.rows, cfg.row_length)
    with jax.sharding.use_abstract_mesh(cfg.mesh.abstract()):
        policy = lm.shapes(cfg.model, cfg.layout)
    s, share = cfg.sampler, cfg.sequences // cfg.minibatches
    return [
        f"{lm.count(policy):,} parameters on {cfg.mesh}; rollout on {cfg.mesh.for_rollout}",
        f"{cfg.questions} questions x {s.samples} samples = {cfg.sequences} sequences a rollout, {s.slots} at once, "
        f"of at most {s.prompt_tokens} + {s.response_tokens} tokens",
        f"{cfg.minibatches} minibatches of {share} sequences = {cfg.minibatches} optimizer steps a rollout, each in at "
        f"most {cfg.shape.microbatches(share, s.window)} microbatches of {cfg.rows} rows x {cfg.row_length} tokens",
        f"{cfg.steps} optimizer steps = {cfg.steps // cfg.minibatches} rollouts; "
        + (
            "the reference stays" if cfg.reference_every is None else f"reference refreshed every {cfg.reference_every}"
        ),
        scoring.describe(cfg.rewards, cfg.scorers),
        *_mixed(cfg),
    ]


def _mixed(cfg: Run) -> list[str]:
    """The mixture at the first rollout and at the last, where they differ."""
    if not cfg.mixture:
        return []
    ends = [counts(cfg.mixture, cfg.questions, step, cfg.steps) for step in (0, cfg.steps - cfg.minibatches)]
    said = [", ".join(f"{count} {domain}" for domain, count in end.items()) for end in ends]
    return [f"questions of a rollout: {said[0]}" + (f"; at last {said[1]}" if said[1] != said[0] else "")]


def run(cfg: Run, place: Place) -> None:
    with (
        jax.set_mesh(cfg.mesh.make()),
        Loop(place, cfg.steps, cfg.saving) as loop,
        scoring.workers(cfg.scorers) as scorers,
    ):
        rollouts = Rollouts(cfg, place, loop.journal, scorers)
        optimizer = cfg.optimizer.make(cfg.steps)
        policy_shapes = lm.shapes(cfg.model, cfg.layout)
        like = jax.eval_shape(lambda p: update.init(p, optimizer), policy_shapes).items()
        host = {"step": 0, "rollout": 0, "positions": {}, "left": 0, "minibatches": cfg.minibatches, "reference": None}
        held = None
        last = loop.store.latest()
        if last is not None and loop.store.host(last).get("left"):
            minibatches = loop.store.host(last)["minibatches"]
            require(
                minibatches == cfg.minibatches,
                f"{place.name}: the checkpoint of step {last} lies inside a rollout of {minibatches} minibatches, "
                f"reinforce.Run.minibatches is {cfg.minibatches}; go on with {minibatches}",
            )
            like["rollout"] = experience.shapes(cfg.sequences, cfg.sampler.window)
        found = loop.restore(like)
        first = lambda: policies.load(place.other(cfg.init), cfg.model, cfg.layout)  # noqa: E731
        if found is None:
            state = jax.jit(partial(update.init, optimizer=optimizer))(first())
        else:
            _, arrays, host = found
            host |= {"minibatches": cfg.minibatches}
            held = arrays.pop("rollout", None)
            state = State.of(arrays)
        if not cfg.algorithm.refers:
            reference = None
        elif cfg.teacher is not None:
            reference = policies.load(place.other(cfg.teacher.init), cfg.teacher.model, cfg.layout)
        elif host["reference"] is None:
            reference = first()
        else:
            reference = loop.store.restore(host["reference"], {"policy": policy_shapes})[0]["policy"]
        loss = partial(grpo.loss, hp=cfg.algorithm, model=Model(cfg.model, cfg.layout, cfg.remat))
        advance = update.compiled(loss, optimizer, cfg.bias_rate)
        while host["step"] < cfg.steps:
            told = {}
            if host["left"] == 0:
                loop.flush()  # so that the time of the last step ends where the rollout begins
                held, told = rollouts.next(host, state.policy, reference)
                host |= {"left": cfg.minibatches}
            began = time.monotonic()
            index = cfg.minibatches - host["left"]
            members = np.split(held.order, cfg.minibatches)[index]
            batch, count = experience.batch_of(
                held, members, cfg.shape, cfg.algorithm, cfg.sampler.temperature, cfg.layout
            )
            state, metrics = advance(state, batch, count)
            metrics = _means(metrics)
            host |= {"step": host["step"] + 1, "left": host["left"] - 1}
            if told:  # wait once a rollout, for an honest time of the update
                jax.block_until_ready(state)
                told |= {"time/update": time.monotonic() - began}
            loop.record(host["step"], metrics | told, SHOWN)
            refresh = reference is not None and cfg.reference_every and host["step"] % cfg.reference_every == 0
            if refresh:  # always a checkpoint, whose policy is the reference of those that follow
                reference = jax.tree.map(lambda w: w.copy(), state.policy)
                host |= {"reference": host["step"]}
            items = lambda: state.items() | ({"rollout": held} if host["left"] else {})  # noqa: B023, E731
            loop.checkpoint(host["step"], items, host, due=bool(refresh))
        loop.store.wait()
    records = read(place.folder / "metrics.jsonl")
    curves(records, place.folder / "plots")
    seen = [record for record in records if "reward/mean" in record]
    early, late = seen[0], seen[-5:]
    average = lambda key: sum(record[key] for record in late) / len(late)  # noqa: E731
    told = {"steps": cfg.steps}
    for name, key in (("accuracy", "reward/accuracy"), ("length", "length/mean")):
        if key in early:
            told |= {f"{name}_first": early[key], f"{name}_last": average(key)}
    place.finish(told | spent(cfg.model, records))


def _means(metrics: dict) -> dict:
    """Sums over response tokens become means."""
    tokens = metrics["tokens"]
    return {k: v / tokens if k in ("kl", "clipped", "ratio", "mismatch", "entropy") else v for k, v in metrics.items()}
