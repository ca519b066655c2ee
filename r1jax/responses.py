"""From questions to graded-ready responses: render, tokenize, sample on the mesh, decode.

The one way in which stages generate text. Every process ends up with the same arrays on the host.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

import jax
import numpy as np
from jax.experimental import multihost_utils

from r1jax import collate
from r1jax.base.fields import require
from r1jax.base.mesh import Mesh
from r1jax.data.questions import Question
from r1jax.data.template import Template
from r1jax.data.tokenizer import Tokenizer
from r1jax.model import lm
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout
from r1jax.reward.answers import Form
from r1jax.reward.response import Response
from r1jax.rollout import slots
from r1jax.rollout.sampler import Prompts, Sampler


@dataclasses.dataclass(frozen=True)
class Responses:
    """Q questions, G responses each, on the host. prompts: token ids without padding. tokens [Q, G, L] int32, EOS
    included; logp [Q, G, L] float32; lengths [Q, G]; finished [Q, G] bool. turns: of the sampling loop. form: the one
    that the prompts ask for."""

    prompts: list[list[int]]
    tokens: np.ndarray
    logp: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray
    turns: int
    form: Form

    def text(self, question: int, sample: int, tokenizer: Tokenizer) -> Response:
        """One response as the rewards read it, without EOS."""
        length, finished = int(self.lengths[question, sample]), bool(self.finished[question, sample])
        ids = self.tokens[question, sample, : length - finished]
        return Response(tokenizer.decode(ids.tolist()), tokens=length, truncated=not finished, form=self.form)


class Responder:
    """Samples with one model, mesh and sampler; compiles once per number of questions."""

    def __init__(
        self, cfg: Transformer, mesh: Mesh, dtype: str, sampler: Sampler, template: Template, tokenizer: Tokenizer
    ):
        self._cfg, self._layout = cfg, Layout(mesh, dtype, resident=True)
        self._mesh, self._shards = mesh.make(), mesh.data * mesh.fsdp * mesh.expert
        self._sampler, self._template, self._tokenizer = sampler, template, tokenizer
        check(cfg, mesh, sampler)
        tokenizer.check(cfg.vocabulary)
        self._view = jax.jit(partial(lm.view, cfg=cfg, layout=self._layout))
        with jax.set_mesh(self._mesh):
            self._shardings = jax.tree.map(
                lambda a: jax.NamedSharding(self._mesh, a.sharding.spec), lm.view_shapes(cfg, self._layout)
            )
        self._generate = jax.jit(
            partial(slots.generate, sampler=sampler, eos=tokenizer.eos, cfg=cfg, layout=self._layout)
        )

    def view(self, policy: lm.Policy) -> lm.Policy:
        """The policy as the sampler wants it, on the sampler's mesh. Made once per rollout, dropped before the
        update."""
        return jax.device_put(self._view(policy), self._shardings)

    def prompts(self, questions: Sequence[Question]) -> list[list[int]]:
        """The prompts' token ids. UserError where one is too long."""
        prompts = self._tokenizer.encode_all([self._template.render(q.text) for q in questions])
        T = self._sampler.prompt_tokens
        for question, prompt in zip(questions, prompts, strict=True):
            require(
                len(prompt) <= T,
                f"the prompt of question {question.id} has {len(prompt)} tokens, Sampler.prompt_tokens {T}; raise it",
            )
        return prompts

    def sample(self, view: lm.Policy, questions: Sequence[Question], *, seed: int, rollout: int) -> Responses:
        """G responses to each question. The same seed, rollout and question id give the same draws."""
        prompts = self.prompts(questions)
        Q, T = len(prompts), self._sampler.prompt_tokens
        padded = -(-Q // self._shards) * self._shards  # the last question fills up what the mesh asks for
        pick = [min(i, Q - 1) for i in range(padded)]
        tokens = np.zeros((padded, T), np.int32)
        for row, i in enumerate(pick):
            tokens[row, : len(prompts[i])] = prompts[i]
        row = self._layout.rows
        with jax.set_mesh(self._mesh):
            batch = Prompts(
                tokens=collate.put(tokens, jax.P(row, None)),
                lengths=collate.put(np.array([len(prompts[i]) for i in pick], np.int32), jax.P(row)),
                ids=collate.put(np.array([questions[i].id for i in pick], np.int32), jax.P(row)),
            )
            key = jax.random.fold_in(jax.random.key(seed), rollout)
            sample, turns = self._generate(view, batch, key)
            host = (
                multihost_utils.process_allgather(sample, tiled=True)
                if jax.process_count() > 1
                else jax.device_get(sample)
            )
        arrays = (a[:Q] for a in (host.tokens, host.logp, host.lengths, host.finished))
        return Responses(prompts, *arrays, turns=int(turns), form=self._template.form)


def check(cfg: Transformer, mesh: Mesh, sampler: Sampler) -> None:
    """UserError where the sampler, the mesh and the model do not go together."""
    shards = mesh.data * mesh.fsdp * mesh.expert
    Layout(mesh, resident=True).check(cfg)
    require(
        sampler.slots % shards == 0,
        f"Sampler.slots {sampler.slots} is no multiple of the mesh's {shards} shards of rows (data x fsdp x expert)",
    )
    require(
        sampler.window <= cfg.context,
        f"Sampler.prompt_tokens + response_tokens = {sampler.window} is longer than the model's context {cfg.context}",
    )
    require(mesh.context == 1, "the rollout's Mesh.context must be 1: a decoded token has no context to share out")
