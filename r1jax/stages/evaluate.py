"""Accuracy of a checkpoint on held-out questions: pass@1, pass@k and cons@k with intervals (DeepSeek-R1, section 3).

Sampled, not greedy: k responses a question at temperature 0.6 and top-p 0.95, as the paper evaluates. The responses of
finished chunks are on the disk, so a run that was cut off goes on with the next chunk.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np

from r1jax import policies, responses
from r1jax.base.fields import at_least, check, require
from r1jax.base.files import append, write_atomically
from r1jax.base.mesh import Mesh, is_main
from r1jax.base.metrics import read
from r1jax.base.place import Place
from r1jax.base.progress import Progress
from r1jax.base.stop import Stop, Stopped
from r1jax.data.template import Template
from r1jax.data.tokenizer import Tokenizer
from r1jax.data.world import World
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout
from r1jax.reward.grade import Grade, grade
from r1jax.reward.statistics import summary
from r1jax.rollout.sampler import Sampler


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """data, init: the stages that prepared the data and trained the policy. split: 'validation' or 'test', of which the
    first `questions` are asked, `chunk` of them at a time."""

    data: str
    init: str
    task: World
    template: Template
    model: Transformer
    mesh: Mesh
    sampler: Sampler
    questions: int
    chunk: int
    split: Literal["validation", "test"] = "test"
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    def __post_init__(self):
        check(self)
        at_least(1, self, "questions", "chunk")
        require(
            self.questions <= getattr(self.task, self.split),
            f"evaluate.Run.questions is {self.questions}, the split has {getattr(self.task, self.split)}",
        )


def describe(cfg: Run, place: Place) -> list[str]:
    responses.check(cfg.model, cfg.mesh.for_rollout, cfg.sampler)
    Layout(cfg.mesh).check(cfg.model)
    s = cfg.sampler
    return [
        f"{cfg.questions} {cfg.split} questions x {s.samples} samples, temperature {s.temperature}, top-p {s.top_p}",
        f"{cfg.chunk} questions at a time, {s.slots} sequences at once, on {cfg.mesh.for_rollout}",
    ]


def run(cfg: Run, place: Place) -> None:
    tokenizer = Tokenizer(place.other(cfg.data) / "tokenizer.model")
    questions = cfg.task.questions(cfg.split, place.other(cfg.data))[: cfg.questions]
    responder = responses.Responder(cfg.model, cfg.mesh.for_rollout, cfg.dtype, cfg.sampler, cfg.template, tokenizer)
    responder.prompts(questions)  # one that is too long is found now
    step = policies.latest(place.other(cfg.init))
    path = place.folder / "samples.jsonl"
    done = _whole_chunks(read(path), cfg)
    with jax.set_mesh(cfg.mesh.make()), Stop() as stop, Progress(place.name, cfg.questions) as progress:
        view = responder.view(policies.load(place.other(cfg.init), cfg.model, Layout(cfg.mesh, cfg.dtype)))
        place.record()
        if is_main():
            write_atomically(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in done))
        for first in range(len(done) // cfg.sampler.samples, cfg.questions, cfg.chunk):
            if stop.asked():
                raise Stopped(f"{place.name}, question {first}")
            asked = questions[first : first + cfg.chunk]
            sampled = responder.sample(view, asked, seed=cfg.seed, rollout=0)
            records = [
                _record(cfg, question, sampled.text(q, g, tokenizer), g)
                for q, question in enumerate(asked)
                for g in range(cfg.sampler.samples)
            ]
            done += records
            if is_main():
                append(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
            right = np.mean([record["correct"] for record in done])
            progress.update(first + len(asked), **{"pass@1": float(right)})
    grades = _grades(done, cfg)
    results = summary(questions, grades) | {"seed": cfg.seed, "checkpoint": f"{cfg.init}/{step}", "split": cfg.split}
    if is_main():
        write_atomically(place.folder / "results.json", json.dumps(results, indent=1) + "\n")
    place.finish({})


def _record(cfg: Run, question, response, sample: int) -> dict:
    graded = dataclasses.asdict(grade(question, response))
    return {
        "id": question.id,
        "sample": sample,
        "prompt": cfg.template.render(question.text),
        "completion": response.text,
    } | graded


def _whole_chunks(records: list[dict], cfg: Run) -> list[dict]:
    """The records of the chunks that are complete; a chunk that was being written when the run was killed goes."""
    chunk = cfg.chunk * cfg.sampler.samples
    full = cfg.questions * cfg.sampler.samples
    return records if len(records) == full else records[: len(records) // chunk * chunk]


def _grades(records: Sequence[dict], cfg: Run) -> list[list[Grade]]:
    names = [field.name for field in dataclasses.fields(Grade)]
    flat = [Grade(**{name: record[name] for name in names}) for record in records]
    G = cfg.sampler.samples
    return [flat[i : i + G] for i in range(0, len(flat), G)]
