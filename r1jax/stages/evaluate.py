"""Accuracy of a checkpoint on held-out questions: pass@1, pass@k and cons@k with intervals (DeepSeek-R1, section 3).

Sampled, not greedy: k responses a question at temperature 0.6 and top-p 0.95, as the paper evaluates.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Literal

from r1jax import policies, survey
from r1jax.base.fields import at_least, check, require
from r1jax.base.files import write_atomically
from r1jax.base.mesh import Mesh, is_main
from r1jax.base.place import Place
from r1jax.data.questions import Question, Source, Task
from r1jax.data.template import Template
from r1jax.data.tokenizer import Tokenizer
from r1jax.model.config import Transformer
from r1jax.responses import Responses
from r1jax.reward.grade import Grade, grade, judged
from r1jax.reward.response import Response
from r1jax.reward.rules import Accuracy, Reward
from r1jax.reward.statistics import summary
from r1jax.rollout.sampler import Sampler


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """data, init: the stages that prepared the data and trained the policy; init None: the stage whose name follows
    the first underscore in this one's, as 'zero' in 'evaluate_zero'. split: 'validation' or 'test', of which the first
    `questions` are asked, `chunk` of them at a time. accuracy: the reward that says which responses are right: those
    that it gives 1. judge: one that no policy was trained by, which says how good replies are that cannot be right or
    wrong."""

    data: str
    task: Task
    template: Template
    model: Transformer
    mesh: Mesh
    sampler: Sampler
    questions: int
    chunk: int
    init: str | None = None
    accuracy: Reward = Accuracy()
    judge: Reward | None = None
    split: Literal["validation", "test"] = "test"
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self):
        check(self)
        at_least(1, self, "questions", "chunk")
        if isinstance(self.task, Source) and self.split in self.task.sizes:
            self.enough(self.task.sizes[self.split])

    def enough(self, found: int) -> None:
        """UserError where the split has fewer questions than are to be asked."""
        require(self.questions <= found, f"evaluate.Run.questions is {self.questions}, the split has {found}")


def describe(cfg: Run, place: Place) -> list[str]:
    return survey.describe(cfg, cfg.questions)


def run(cfg: Run, place: Place) -> None:
    tokenizer = Tokenizer(place.other(cfg.data))
    questions = cfg.task.questions(cfg.split, place.other(cfg.data))[: cfg.questions]
    cfg.enough(len(questions))
    init = policies.before(cfg.init, place.name)
    step = policies.latest(place.other(init))

    def judge(asked: Sequence[Question], sampled: Responses) -> list[dict]:
        return [_record(cfg, q, sampled.text(i, g, tokenizer), g) for i, q in enumerate(asked) for g in range(G)]

    G = cfg.sampler.samples
    records, spent = survey.ask(cfg, place, init, questions, tokenizer, judge, shown="correct")
    results = summary(questions, _grades(records, G)) | {
        "seed": cfg.seed,
        "checkpoint": f"{init}/{step}",
        "split": cfg.split,
    }
    if is_main():
        write_atomically(place.folder / "results.json", json.dumps(results, indent=1) + "\n")
    place.finish(spent)


def _record(cfg: Run, question: Question, response: Response, sample: int) -> dict:
    graded = grade(question, response, cfg.accuracy.score(question, response))
    if cfg.judge is not None:
        graded = judged(graded, cfg.judge, question, response)
    return survey.fields(question, response.text, sample, cfg.template) | dataclasses.asdict(graded)


def _grades(records: Sequence[dict], samples: int) -> list[list[Grade]]:
    """The grades of each question."""
    names = [field.name for field in dataclasses.fields(Grade)]
    flat = [Grade(**{name: record[name] for name in names}) for record in records]
    return [flat[i : i + samples] for i in range(0, len(flat), samples)]
