"""Rewards and grades of sampled responses, as numbers that every process holds."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from r1jax.data.questions import Question
from r1jax.data.tokenizer import Tokenizer
from r1jax.responses import Responses
from r1jax.reward.grade import Grade, grade
from r1jax.reward.rules import Reward, total

GRADES = tuple(field.name for field in dataclasses.fields(Grade) if field.name != "answer")


@dataclasses.dataclass(frozen=True)
class Scored:
    """Q questions and G responses each. rewards [Q, G] float64: the weighted sum. columns, each [Q, G]: the numbers of
    `Grade`, each reward's value under `reward/<name>`, whether a reward met an unparsable response or a time-out."""

    questions: Sequence[Question]
    responses: Responses
    rewards: np.ndarray
    columns: dict[str, np.ndarray]

    @property
    def varied(self) -> np.ndarray:
        """[Q] whether the samples of a question differ in reward: a group that does not has no advantage."""
        return np.ptp(self.rewards, 1) > 0  # the deviation of equal numbers may be 1e-17

    def metrics(self) -> dict[str, float]:
        """The metrics of a rollout, means over its responses."""
        lengths = self.responses.lengths
        mean = {name: float(values.mean()) for name, values in self.columns.items()}
        return {
            "reward/mean": float(self.rewards.mean()),
            **{name: value for name, value in mean.items() if name.startswith("reward/")},
            "reward/no_variance": float(1 - self.varied.mean()),
            "reward/accuracy_any_format": mean["correct_any_format"],
            "length/mean": float(lengths.mean()),
            "length/max": float(lengths.max()),
            "length/truncated": mean["truncated"],
            "words/language": mean["language"],
            "words/reflection": mean["reflections"],
            "rollout/tokens": float(lengths.sum()),
            "rollout/turns": float(self.responses.turns),
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
                "correct": bool(self.columns["correct"][q, 0]),
            }
            for q in range(0, len(self.questions), apart)
        ][:count]


def score(
    questions: Sequence[Question], responses: Responses, rewards: Sequence[Reward], tokenizer: Tokenizer
) -> Scored:
    """Scores all responses: each process its share of the questions, then all share the numbers."""
    keys = [*GRADES, *(f"reward/{reward.name}" for reward in rewards), "reward/unparsable", "reward/timeout", "total"]
    table = np.zeros((*responses.lengths.shape, len(keys)))
    for q in range(jax.process_index(), len(questions), jax.process_count()):
        for g in range(table.shape[1]):
            response = responses.text(q, g, tokenizer)
            graded = grade(questions[q], response)
            value, parts, statuses = total(rewards, questions[q], response)
            met = set(statuses.values())
            table[q, g] = [
                *(getattr(graded, name) for name in GRADES),
                *(parts[reward.name] for reward in rewards),
                "unparsable" in met,
                "timeout" in met,
                value,
            ]
    if jax.process_count() > 1:
        bits = multihost_utils.process_allgather(table.view(np.uint32))  # as numbers, jax would round them to float32
        table = bits.view(np.float64).sum(0)
    columns = dict(zip(keys, np.moveaxis(table, 2, 0), strict=True))
    return Scored(questions, responses, columns.pop("total"), columns)
