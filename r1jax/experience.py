"""One rollout on the host: responses, rewards, log-probabilities; and its minibatches as packed rows on the mesh."""

import dataclasses
import math
from collections.abc import Sequence

import flax.struct
import jax
import numpy as np

from r1jax import collate
from r1jax.learn.grpo import Grpo, token_weights
from r1jax.learn.state import PolicyBatch
from r1jax.model.layout import Layout
from r1jax.scoring import Scoring


@flax.struct.dataclass
class Experience:
    """Sequences of one rollout, B = questions x samples of them, numpy arrays. A checkpoint carries it as it is, so a
    reward is never decided twice.

    tokens [B, S] int32: prompt and response, EOS included; starts, ends [B]: where the response begins and what ends
    it. finished [B]: ended by EOS. sampled, old, reference [B, S] float32: log-probabilities of the token at the same
    place, 0 outside the response. advantages [B]. order [B]: the random order in which minibatches take the sequences.
    """

    tokens: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    finished: np.ndarray
    sampled: np.ndarray
    old: np.ndarray
    reference: np.ndarray
    advantages: np.ndarray
    order: np.ndarray

    @property
    def response_tokens(self) -> int:
        return int((self.ends - self.starts).sum())


def of(groups: Sequence[tuple[Scoring, int]], window: int, order: np.ndarray) -> Experience:
    """The experience of questions out of rollouts, each (rollout, index), in sequences of `window` tokens. It has no
    advantages yet, which may wait for the scores."""
    Q, G = len(groups), groups[0][0].responses.lengths.shape[1]
    tokens = np.zeros((Q, G, window), np.int32)
    logp = np.zeros((Q, G, window), np.float32)
    starts = np.zeros((Q, G), np.int32)
    for row, (rollout, q) in enumerate(groups):
        prompt, responses = rollout.responses.prompts[q], rollout.responses
        response = slice(len(prompt), len(prompt) + responses.tokens.shape[2])
        tokens[row, :, : len(prompt)] = prompt
        tokens[row, :, response], logp[row, :, response] = responses.tokens[q], responses.logp[q]
        starts[row] = len(prompt)
    flat = lambda a: a.reshape(-1, *a.shape[2:])  # noqa: E731
    return Experience(
        tokens=flat(tokens),
        starts=flat(starts),
        ends=flat(starts + np.stack([rollout.responses.lengths[q] for rollout, q in groups])),
        finished=flat(np.stack([rollout.responses.finished[q] for rollout, q in groups])),
        sampled=flat(logp),
        old=flat(logp),
        reference=flat(logp),
        advantages=np.zeros(Q * G, np.float32),
        order=order.astype(np.int32),
    )


def shapes(sequences: int, window: int) -> Experience:
    """The shapes of an Experience of `sequences` sequences, for a restore."""
    wide = jax.ShapeDtypeStruct((sequences, window), np.float32)
    number = jax.ShapeDtypeStruct((sequences,), np.int32)
    return Experience(
        tokens=jax.ShapeDtypeStruct((sequences, window), np.int32),
        starts=number,
        ends=number,
        finished=jax.ShapeDtypeStruct((sequences,), np.bool_),
        sampled=wide,
        old=wide,
        reference=wide,
        advantages=jax.ShapeDtypeStruct((sequences,), np.float32),
        order=number,
    )


@dataclasses.dataclass(frozen=True)
class Shape:
    """The static shape of packed rows: microbatches of `rows` rows of `length` tokens."""

    rows: int
    length: int

    def microbatches(self, sequences: int, window: int) -> int:
        """Enough for `sequences` of at most `window` tokens: best fit puts at least length // window into a row."""
        per_row = max(self.length // window, 1)
        return math.ceil(math.ceil(sequences / per_row) / self.rows)


def rows_of(experience: Experience, members: np.ndarray, shape: Shape):
    """The sequences `members`, packed -> (arrays of Rows [M, B, T], number of microbatches, places)."""
    sequences = [experience.tokens[i, : experience.ends[i]] for i in members]
    packed, places = collate.pack(sequences, shape.length)
    stacked, count = collate.stack(packed, shape.microbatches(len(members), experience.tokens.shape[1]), shape.rows)
    return stacked, count, places


def spread(experience: Experience, members: np.ndarray, places, values_BS: np.ndarray, shape: tuple) -> np.ndarray:
    """Per-token values [B, S] of the members at their places in packed rows [M, B, T]: aligned with the targets, so the
    value of token s + 1 stands where s lies."""
    out = np.zeros((shape[0] * shape[1], shape[2]), np.float32)
    for index, row, column, _ in places:
        i = members[index]
        first, last = int(experience.starts[i]), int(experience.ends[i])
        out[row, column + first - 1 : column + last - 1] = values_BS[i, first:last]
    return out.reshape(shape)


def gather(experience: Experience, members: np.ndarray, places, packed: np.ndarray) -> np.ndarray:
    """The inverse of `spread`: [B, S] from rows [M, B, T]."""
    out = np.zeros(experience.tokens.shape, np.float32)
    packed = packed.reshape(-1, packed.shape[-1])
    for index, row, column, _ in places:
        i = members[index]
        first, last = int(experience.starts[i]), int(experience.ends[i])
        out[i, first:last] = packed[row, column + first - 1 : column + last - 1]
    return out


def batch_of(
    experience: Experience, members: np.ndarray, shape: Shape, hp: Grpo, temperature: float, layout: Layout
) -> tuple[PolicyBatch, jax.Array]:
    """A minibatch of whole sequences -> (batch, number of microbatches)."""
    rows, count, places = rows_of(experience, members, shape)
    kept = experience.finished[members] if hp.mask_truncated else np.ones(len(members), bool)
    weights = np.zeros(len(experience.ends), np.float32)
    weights[members] = token_weights((experience.ends - experience.starts)[members], kept, hp)
    wide = lambda values_B: np.broadcast_to(values_B[:, None], experience.tokens.shape)  # noqa: E731
    arrays = {
        "weights": wide(weights),
        "advantages": wide(experience.advantages),
        "old_logp": experience.old,
        "sampled_logp": experience.sampled,
        "reference_logp": experience.reference,
    }
    grid = rows["tokens"].shape
    placed = {name: spread(experience, members, places, values, grid) for name, values in arrays.items()}
    batch = PolicyBatch(
        rows=collate.put_rows(rows, layout),
        row_weight=collate.put(np.float32(1 / (rows["segments"].max(-1) > 0).sum()), jax.P()),
        temperature=collate.put(np.float32(temperature), jax.P()),
        **{name: collate.put(values, collate.spec(values, layout)) for name, values in placed.items()},
    )
    return batch, collate.put(np.int32(count), jax.P())
