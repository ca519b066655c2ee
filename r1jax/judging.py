"""Reward models at work: what a judge thinks of sampled responses, as numbers that every process holds.

Whether it was trained or is asked, a judge reads the same: the prompt, then the part of the completion that it judges,
encoded anew from the text, then EOS.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Literal

import jax
import numpy as np
from jax.experimental import multihost_utils

from r1jax import collate, policies
from r1jax.base.fields import at_least, check, require
from r1jax.base.place import Place
from r1jax.data.questions import Question
from r1jax.data.tokenizer import Tokenizer
from r1jax.learn import scorer
from r1jax.learn.likelihood import Model
from r1jax.model import lm
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout
from r1jax.responses import Responses
from r1jax.reward.answers import reply

Part = Literal["reply", "response"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
    """init: the stage that trained it. name: its key in the metrics. domains: of the questions that it judges. part: of
    the response that it reads, the one that it was trained on. last: it counts in so many last optimizer steps only;
    None: in all (DeepSeek-R1, 2501.12948, section 3.2.2: the last 400 of 1,700, for fear of reward hacking)."""

    init: str
    name: str
    domains: tuple[str, ...]
    part: Part
    weight: float = 1.0
    last: int | None = None

    def __post_init__(self):
        check(self)
        at_least(1, self, "last")
        require(len(self.domains) > 0, f"Judge.domains of {self.name!r} is empty; it would judge nothing")

    def enters(self, step: int, steps: int) -> bool:
        """Whether it counts in a rollout that begins after `step` of `steps` optimizer steps."""
        return self.last is None or step >= steps - self.last


class Valuer:
    """Values sequences with scorers of one shape, in microbatches of `rows` rows of `length` tokens; the mesh of
    `layout` must be in force. Compiles once per number of microbatches."""

    def __init__(self, cfg: Transformer, layout: Layout, rows: int, length: int):
        self.cfg, self.layout, self.rows, self.length = cfg, layout, rows, length
        model = Model(cfg, layout, remat=False)
        self._score = jax.jit(partial(scorer.score_all, model=model))

    def load(self, folder) -> lm.Policy:
        """The scorer of a stage's last checkpoint."""
        return policies.restore(folder, scorer.shapes(self.cfg, self.layout))

    def values(self, judge: lm.Policy, sequences: Sequence[Sequence[int]], most: int) -> np.ndarray:
        """The value of each sequence, [n] float32; `most`: sequences that there may ever be."""
        packed, places = collate.pack(sequences, self.length)
        stacked, count = collate.stack(packed, -(-most // self.rows), self.rows)
        values = self._score(judge, collate.put_rows(stacked, self.layout), collate.put(np.int32(count), jax.P()))
        if jax.process_count() > 1:
            values = multihost_utils.process_allgather(values, tiled=True)
        values = np.asarray(values).reshape(-1, self.length)
        out = np.zeros(len(sequences), np.float32)
        for index, row, column, _ in places:
            out[index] = values[row, column + len(sequences[index]) - 1]
        return out


class Judges:
    """All judges of a run. A scorer is read from the disk when it first counts, then kept."""

    def __init__(self, judges: Sequence[Judge], place: Place, valuer: Valuer, tokenizer: Tokenizer):
        names = [judge.name for judge in judges]
        require(len(set(names)) == len(names), f"two judges share a name: {names}")
        for judge in judges:
            policies.latest(place.other(judge.init))  # one that is missing is found now
        self._judges, self._place, self._valuer, self._tokenizer = judges, place, valuer, tokenizer
        self._scorers: dict[str, lm.Policy] = {}

    def columns(
        self, questions: Sequence[Question], responses: Responses, step: int, steps: int
    ) -> dict[str, np.ndarray]:
        """By the name of each judge that counts after `step` of `steps` optimizer steps: values [Q, G] float32 before
        its weight, NaN for questions of other domains. The mesh of the valuer must be in force; all processes call."""
        columns = {}
        for judge in self._judges:
            if judge.enters(step, steps):
                if judge.name not in self._scorers:
                    self._scorers[judge.name] = self._valuer.load(self._place.other(judge.init))
                columns[judge.name] = self._column(judge, questions, responses)
        return columns

    def _column(self, judge: Judge, questions: Sequence[Question], responses: Responses) -> np.ndarray:
        column = np.full(responses.lengths.shape, np.nan, np.float32)
        asked = [q for q, question in enumerate(questions) if question.domain in judge.domains]
        if asked:
            G = column.shape[1]
            texts = [responses.text(q, g, self._tokenizer).text for q in asked for g in range(G)]
            ends = self._tokenizer.encode_all([part_of(text, judge.part) for text in texts])
            prompts, longest, eos = responses.prompts, self._valuer.length, self._tokenizer.eos
            read = [sequence(prompts[asked[i // G]], end, eos, longest) for i, end in enumerate(ends)]
            values = self._valuer.values(self._scorers[judge.name], read, most=column.size)
            column[asked] = values.reshape(len(asked), G)
        return column


def part_of(completion: str, part: Part) -> str:
    """What a judge reads of a completion."""
    return reply(completion) if part == "reply" else completion


def sequence(prompt: Sequence[int], part: Sequence[int], eos: int, longest: int | None = None) -> list[int]:
    """What a judge reads, as tokens; cut before EOS to `longest`: text encoded anew may be longer than it was."""
    ids = [*prompt, *part, eos]
    return ids if longest is None or len(ids) <= longest else [*ids[: longest - 1], eos]
