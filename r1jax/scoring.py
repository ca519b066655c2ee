"""Rewards and grades of sampled responses, as numbers that every process holds."""

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from concurrent.futures import Future

import jax
import numpy as np
from jax.experimental import multihost_utils

from r1jax.base.fields import require
from r1jax.data.questions import Question
from r1jax.data.tokenizer import Tokenizer
from r1jax.responses import Responses
from r1jax.reward import sandbox
from r1jax.reward.code import Code
from r1jax.reward.grade import columns, lost, marks
from r1jax.reward.pool import Lost, Pool
from r1jax.reward.rules import ByDomain, Reward

SECONDS = 60.0  # that a worker may take for one response, the start of the worker included
MEANS = {  # the numbers of a grade that are metrics of a rollout, where one applies to any of its questions
    "truncated": "length/truncated",
    "language": "words/language",
    "reflections": "words/reflection",
    "correct_any_format": "reward/accuracy_any_format",
}


@dataclasses.dataclass(frozen=True)
class Scored:
    """Q questions and G responses each. rewards [Q, G] float64: the weighted sum. columns, each [Q, G]: what else
    `grade.columns` names."""

    questions: Sequence[Question]
    responses: Responses
    rewards: np.ndarray
    columns: dict[str, np.ndarray]

    @property
    def varied(self) -> np.ndarray:
        """[Q] whether the samples of a question differ in reward: a group that does not has no advantage."""
        return np.ptp(self.rewards, 1) > 0  # the deviation of equal numbers may be 1e-17

    @property
    def undecided(self) -> np.ndarray:
        """[Q] whether some samples of a question are right and some are not, which dynamic sampling asks for (DAPO,
        2503.14476, equation 11); of one whose answers nothing can check, whether the rewards differ."""
        right = self.columns["correct"]
        return np.where(np.isnan(right).any(1), self.varied, np.ptp(right, 1) > 0)

    def metrics(self) -> dict[str, float]:
        """The metrics of a rollout, means over its responses."""
        lengths = self.responses.lengths
        mean = {name: float(np.nanmean(v)) for name, v in self.columns.items() if not np.isnan(v).all()}
        return {
            "reward/mean": float(self.rewards.mean()),
            **{name: value for name, value in mean.items() if name.startswith("reward/")},
            "reward/no_variance": float(1 - self.varied.mean()),
            "length/mean": float(lengths.mean()),
            "length/max": float(lengths.max()),
            "rollout/tokens": float(lengths.sum()),
            "rollout/turns": float(self.responses.turns),
            **{metric: mean[name] for name, metric in MEANS.items() if name in mean},
        }

    def examples(self, count: int, tokenizer: Tokenizer) -> list[dict]:
        """The first responses to `count` questions, as a person reads them."""
        apart = max(math.ceil(len(self.questions) / max(count, 1)), 1)
        return [
            {
                "prompt": tokenizer.decode(self.responses.prompts[q]),
                "completion": self.responses.text(q, 0, tokenizer).text,
                "answer": self.questions[q].answer,
                "reward": float(self.rewards[q, 0]),
                "correct": None if math.isnan(right := self.columns["correct"][q, 0]) else bool(right),
            }
            for q in range(0, len(self.questions), apart)
        ][:count]


class Scoring:
    """Scores under way: those of this process's share of the questions."""

    def __init__(
        self,
        questions: Sequence[Question],
        responses: Responses,
        rewards: Sequence[Reward],
        tokenizer: Tokenizer,
        scorers: Pool | None,
    ):
        """Begins: in the pool, without waiting, or else here, to the end."""
        began = time.monotonic()
        self.questions, self.responses, self._rewards = questions, responses, rewards
        self._begun, self._judged = {}, {}
        for q in range(jax.process_index(), len(questions), jax.process_count()):
            for g in range(responses.lengths.shape[1]):
                work = (rewards, questions[q], responses.text(q, g, tokenizer))
                self._begun[q, g] = work[-1], (scorers.submit(marks, *work) if scorers else marks(*work))
        self.seconds = time.monotonic() - began  # that the caller has waited so far

    def add(self, columns: dict[str, np.ndarray], weights: dict[str, float]) -> None:
        """What judges say, each [Q, G], NaN where it is none of their business; before `scored` is asked for."""
        self._judged = {name: (values, weights[name]) for name, values in columns.items()}

    @functools.cached_property
    def scored(self) -> Scored:
        """Waits for the last response, then all processes share the numbers; all must ask."""
        began = time.monotonic()
        names = columns(self._rewards)
        table = np.zeros((*self.responses.lengths.shape, len(names)))
        for place, (response, work) in self._begun.items():
            try:
                table[place] = work.result() if isinstance(work, Future) else work
            except Lost:
                table[place] = lost(self._rewards, response)
        if jax.process_count() > 1:
            bits = multihost_utils.process_allgather(table.view(np.uint32))  # jax would round numbers to float32
            table = bits.view(np.float64).sum(0)
        numbers = dict(zip(names, np.moveaxis(table, 2, 0), strict=True))
        rewards = numbers.pop("total")
        for name, (values, weight) in self._judged.items():
            numbers[f"reward/{name}"] = values
            rewards = rewards + weight * np.nan_to_num(values)
        self.seconds += time.monotonic() - began
        return Scored(self.questions, self.responses, rewards, numbers)


def workers(count: int) -> contextlib.AbstractContextManager[Pool | None]:
    """A pool of `count` workers while it is entered; None where `count` is 0 and everything is scored in place."""
    return Pool(count, SECONDS) if count else contextlib.nullcontext()


def describe(rewards: Sequence[Reward], scorers: int) -> str:
    """How responses will be scored. UserError where programs are to run and no sandbox can be had."""
    said = f"processes that score: {scorers}" if scorers else "scored in place"
    parts = [
        part for reward in rewards for part in (reward.rewards.values() if isinstance(reward, ByDomain) else [reward])
    ]
    for reward in parts:
        if isinstance(reward, Code):
            said += f", programs run by {sandbox.way(reward.without_sandbox)}"
            require(
                reward.limits.wall + sandbox.GRACE < SECONDS,
                f"Limits.wall is {reward.limits.wall}; a response is given up after {SECONDS} seconds",
            )
    return said
