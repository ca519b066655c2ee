"""Many questions put to one checkpoint, chunk by chunk: the loop that evaluation and curation share.

The records of finished chunks are on the disk, so a run that was cut off goes on with the next chunk. A response is a
function of (seed, question id, sample index), so what comes out does not depend on where it was cut. settings.json says
what they were drawn and judged with: under other settings it does not go on.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Protocol

import jax
import numpy as np
from etils import epath

from r1jax import policies, responses
from r1jax.base.fields import require
from r1jax.base.files import append, read_json, write_atomically
from r1jax.base.mesh import Mesh, is_main
from r1jax.base.metrics import read
from r1jax.base.place import Place
from r1jax.base.progress import Progress
from r1jax.base.stop import Stop, Stopped
from r1jax.data.questions import Question
from r1jax.data.template import Template
from r1jax.data.tokenizer import Tokenizer
from r1jax.model import cost
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout
from r1jax.responses import Responses
from r1jax.rollout.sampler import Sampler

FREE = ("mesh", "chunk", "general", "init")  # may change on the way; of init, what it comes to stands in settings.json


class Settings(Protocol):
    """What the Run of such a stage says. chunk: questions at a time."""

    template: Template
    model: Transformer
    mesh: Mesh
    sampler: Sampler
    chunk: int
    dtype: str
    seed: int


class Judgement(Protocol):
    """What the stage makes of a chunk: one JSON record a response, with its `tokens`; all samples of a question
    side by side."""

    def __call__(self, questions: Sequence[Question], responses: Responses) -> list[dict]: ...


def describe(cfg: Settings, questions: int) -> list[str]:
    responses.check(cfg.model, cfg.mesh.for_rollout, cfg.sampler)
    Layout(cfg.mesh).check(cfg.model)
    s = cfg.sampler
    return [
        f"{questions} questions x {s.samples} samples, temperature {s.temperature}, top-p {s.top_p}",
        f"{cfg.chunk} questions at a time, {s.slots} sequences at once, on {cfg.mesh.for_rollout}",
    ]


def ask(
    cfg: Settings,
    place: Place,
    init: str,
    questions: Sequence[Question],
    tokenizer: Tokenizer,
    judge: Judgement,
    shown: str,
) -> tuple[list[dict], dict[str, float]]:
    """Puts the questions to the policy of stage `init` -> (all records, in order, which are kept in samples.jsonl; for
    the stage's summary the tokens drawn and the model FLOPs). shown: the field whose mean the progress bar shows."""
    G = cfg.sampler.samples
    responder = responses.Responder(cfg.model, cfg.mesh.for_rollout, cfg.dtype, cfg.sampler, cfg.template, tokenizer)
    prompts = responder.prompts(questions)  # one that is too long is found now
    path, settings = place.folder / "samples.jsonl", _settings(cfg, place, init, questions)
    found = read(path)
    if found:
        _check_settings(path, settings)
    done = _whole_chunks(found, cfg.chunk * G, len(questions) * G)
    with jax.set_mesh(cfg.mesh.make()), Stop() as stop, Progress(place.name, len(questions)) as progress:
        view = responder.view(policies.load(place.other(init), cfg.model, Layout(cfg.mesh, cfg.dtype)))
        place.record()
        if is_main():
            write_atomically(_beside(path), json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
            write_atomically(path, _lines(done))
        for first in range(len(done) // G, len(questions), cfg.chunk):
            if stop.asked():
                raise Stopped(f"{place.name}, question {first}")
            asked = questions[first : first + cfg.chunk]
            records = judge(asked, responder.sample(view, asked, seed=cfg.seed, rollout=0))
            done += records
            if is_main():
                append(path, _lines(records))
            values = [record[shown] for record in done if record[shown] is not None]
            progress.update(first + len(asked), **({shown: sum(values) / len(values)} if values else {}))
    lengths = np.array([record["tokens"] for record in done]).reshape(-1, G)
    work = cost.sampling(np.array([len(prompt) for prompt in prompts]), lengths)
    return done, {"tokens_drawn": int(lengths.sum()), "flops": float(round(cost.forward(cfg.model, *work)))}


def _settings(cfg: Settings, place: Place, init: str, questions: Sequence[Question]) -> dict[str, str]:
    """All that the records are a function of, by name."""
    named = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg) if field.name not in FREE}
    said = {name: re.sub(r" at 0x\w+", "", repr(value)) for name, value in named.items()}  # an address is none
    asked = hashlib.sha256(repr(questions).encode(errors="replace")).hexdigest()
    return {"checkpoint": f"{init}/{policies.latest(place.other(init))}"} | said | {"questions": asked}


def _beside(path: epath.Path) -> epath.Path:
    return path.parent / "settings.json"


def _check_settings(path: epath.Path, settings: dict[str, str]) -> None:
    """UserError where the samples that are there were drawn, or judged, with others."""
    before = read_json(_beside(path)) if _beside(path).exists() else {}
    other = ", ".join(name for name in settings | before if settings.get(name) != before.get(name))
    require(not other, f"{path} holds answers under other settings ({other}); go back to those, or remove the file")


def _lines(records: list[dict]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def _whole_chunks(records: list[dict], chunk: int, full: int) -> list[dict]:
    """The records of the chunks that are complete; a chunk that was being written when the run was killed goes."""
    return records if len(records) == full else records[: len(records) // chunk * chunk]


def fields(question: Question, text: str, sample: int, template: Template) -> dict:
    """How a record begins."""
    return {
        "id": question.id,
        "domain": question.domain,
        "sample": sample,
        "prompt": template.render(question.text),
        "completion": text,
    }
