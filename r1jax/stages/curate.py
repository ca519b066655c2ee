"""Rejection sampling: several responses a question from a checkpoint, graded, filtered and written as examples
(DeepSeek-R1, 2501.12948, section 3 and supplement B.3).

Serves the cold start (responses of R1-Zero, rewritten for a reader), the second fine-tuning and distillation (those of
the reasoning policy, with general examples added), and the reward models (all responses, with their rewards).
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from typing import Literal

from r1jax import policies, survey
from r1jax.base.fields import at_least, check, not_empty, require
from r1jax.base.files import write_atomically
from r1jax.base.mesh import Mesh, from_main, is_main
from r1jax.base.place import Place
from r1jax.data import examples
from r1jax.data.examples import Example, General
from r1jax.data.questions import Question, Task
from r1jax.data.template import Rewriter, Template
from r1jax.data.tokenizer import Tokenizer
from r1jax.model.config import Transformer
from r1jax.responses import Responses
from r1jax.reward.grade import grade
from r1jax.reward.rules import Reward, distinct, total
from r1jax.reward.selection import Filter
from r1jax.rollout.sampler import Sampler


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """data, init: the stages that prepared the data and trained the policy. The first `questions` of the split `rl` are
    asked (those of `domains`, where it says some), `chunk` at a time.

    template: what the policy is asked with. written: what the examples are written with, None: the same. rewriter:
    makes of a response that is kept the text to learn; None: it stays. general: how many of the task's own examples
    are added.
    """

    data: str
    init: str
    task: Task
    template: Template
    model: Transformer
    mesh: Mesh
    sampler: Sampler
    rewards: tuple[Reward, ...]
    keep: Filter
    questions: int
    chunk: int
    domains: tuple[str, ...] | None = None
    written: Template | None = None
    rewriter: Rewriter | None = None
    general: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self):
        check(self)
        at_least(1, self, "questions", "chunk")
        at_least(0, self, "general")
        not_empty(self, "rewards", "choose at least one reward")
        distinct(self.rewards)
        require(
            self.general == 0 or isinstance(self.task, General),
            f"curate.Run.general is {self.general}, but {type(self.task).__name__} has no examples of its own",
        )


def describe(cfg: Run, place: Place) -> list[str]:
    return survey.describe(cfg, cfg.questions)


def run(cfg: Run, place: Place) -> None:
    tokenizer = Tokenizer(place.other(cfg.data))
    pool = cfg.task.questions("rl", place.other(cfg.data))
    questions = [q for q in pool if cfg.domains is None or q.domain in cfg.domains][: cfg.questions]
    source = f"{cfg.init}/{policies.latest(place.other(cfg.init))}"

    def judge(asked: Sequence[Question], sampled: Responses) -> list[dict]:
        return [record for i, question in enumerate(asked) for record in _judge(cfg, question, i, sampled, tokenizer)]

    records, spent = survey.ask(cfg, place, cfg.init, questions, tokenizer, judge, shown="kept")
    if is_main():
        G = cfg.sampler.samples
        found = [_example(cfg, questions[i // G], record, source) for i, record in enumerate(records) if record["kept"]]
        general = cfg.task.general(cfg.general, cfg.written or cfg.template) if cfg.general else []
        examples.write(place.folder, found + general)
        write_atomically(place.folder / "yield.json", json.dumps(_yield(questions, records, G), indent=1) + "\n")
    from_main(0)  # the others wait for the files
    kept = sum(record["kept"] for record in records)
    place.finish({"sampled": len(records), "kept": kept, "general": cfg.general} | spent)


def _judge(cfg: Run, question: Question, index: int, sampled: Responses, tokenizer: Tokenizer) -> list[dict]:
    """The records of one question's samples."""
    records = []
    for sample in range(cfg.sampler.samples):
        response = sampled.text(index, sample, tokenizer)
        reward, scores = total(cfg.rewards, question, response)
        text = response.text
        reason = cfg.keep.reason(response, grade(question, response, scores.get("accuracy")), reward)
        if reason is None and cfg.rewriter is not None:
            text = cfg.rewriter.rewrite(question, response.parts.thinking, response.parts.reply)
        begin = survey.fields(question, text, sample, cfg.written or cfg.template)
        parts = {name: score.value for name, score in scores.items()}
        records.append(begin | {"tokens": response.tokens, "reward": reward, "parts": parts, "reason": reason})
    chosen = cfg.keep.choose([r["completion"] for r in records], [r["reason"] for r in records])
    return [r | {"reason": reason, "kept": reason is None} for r, reason in zip(records, chosen, strict=True)]


def _example(cfg: Run, question: Question, record: dict, source: str) -> Example:
    return Example(
        prompt=record["prompt"],
        completion=record["completion"],
        domain=question.domain,
        language=question.language,
        question=question.id,
        sample=record["sample"],
        seed=cfg.seed,
        source=source,
        reward=record["reward"],
        parts=json.dumps(record["parts"]),
    )


def _yield(questions: Sequence[Question], records: Sequence[dict], samples: int) -> dict[str, dict[str, int]]:
    """By domain: how many were sampled, how many went for each reason, how many are kept."""
    table: dict[str, Counter] = {}
    for number, record in enumerate(records):
        row = table.setdefault(questions[number // samples].domain, Counter())
        row.update(["sampled", record["reason"] or "kept"])
    return {domain: dict(row) for domain, row in table.items()}
