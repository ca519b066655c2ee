"""Training of a reward model, helpful or harmless (DeepSeek-R1, 2501.12948, section 3.1).

The helpful one learns from pairs of responses to one question whose lengths match over the set, and reads the reply
alone, so that it does not meddle with the reasoning. The harmless one learns from single responses, safe or not, and
reads all of them, since harm may stand anywhere. What is better or safe, the rewards of the examples say.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import numpy as np

from r1jax import collate, policies, supervised
from r1jax.base.fields import at_least, check, not_empty, require
from r1jax.base.files import write_atomically
from r1jax.base.mesh import Mesh, is_main
from r1jax.base.place import Place
from r1jax.data import examples, feed, pairs
from r1jax.data.examples import Example
from r1jax.data.tokenizer import Tokenizer
from r1jax.experience import Shape
from r1jax.judging import Part, Valuer, part_of, sequence
from r1jax.learn import preference, scorer
from r1jax.learn.likelihood import Model
from r1jax.learn.optim import AdamW
from r1jax.learn.state import LabelledBatch
from r1jax.loop import Saving, spent
from r1jax.model import lm
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """data: the stage with the tokenizer. examples: the stages whose graded samples are read, of `domain` (None: of
    all). init: the one whose policy it starts from.

    kind: 'pairwise': at most one pair a question, whose rewards differ by more than `margin` and whose mean lengths
    match up to `tolerance` (data.pairs; None: they need not); 'pointwise': every sample, its label is whether its
    reward is above `threshold`. part: what is read after the prompt, the 'reply' or all of the 'response'. longest:
    tokens of prompt and part at most; longer samples are left out and counted.
    batch: pairs, or samples, of an optimizer step, in microbatches of rows x row_length tokens. held_out: share of the
    questions that is not learned; the accuracy on it goes to results.json. bias_rate: see pretrain.Run.
    """

    data: str
    examples: tuple[str, ...]
    init: str
    kind: Literal["pairwise", "pointwise"]
    part: Part
    model: Transformer
    mesh: Mesh
    optimizer: AdamW
    saving: Saving
    batch: int
    rows: int
    row_length: int
    longest: int
    epochs: int = 1
    domain: str | None = None
    margin: float = 0.0
    tolerance: float | None = 0.05
    threshold: float = 0.5
    held_out: float = 0.05
    bias_rate: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = True
    seed: int = 0

    def __post_init__(self):
        check(self)
        at_least(1, self, "batch", "rows", "row_length", "longest", "epochs")
        at_least(0, self, "margin", "tolerance", "bias_rate")
        not_empty(self, "examples", "name one stage at least that wrote examples")
        require(0 < self.held_out < 1, f"judge.Run.held_out is {self.held_out}; it is a share, between 0 and 1")
        require(
            self.longest <= self.model.context,
            f"judge.Run.longest {self.longest} is longer than the model's context {self.model.context}",
        )
        require(
            self.row_length >= self.together * self.longest,
            f"judge.Run.row_length {self.row_length} does not hold {self.together} x judge.Run.longest {self.longest}: "
            "a pair lies in one row",
        )

    @property
    def layout(self) -> Layout:
        return Layout(self.mesh, self.dtype)

    @property
    def together(self) -> int:
        """Sequences that are judged together."""
        return 2 if self.kind == "pairwise" else 1

    @property
    def microbatches(self) -> int:
        return Shape(self.rows, self.row_length).microbatches(self.batch, self.together * self.longest)


class Item(NamedTuple):
    """One pair, the chosen response first, or one response: sequences and their labels (see learn.state.LabelledBatch),
    and the lengths of what is judged, the prompt apart. question: its prompt."""

    question: str
    sequences: tuple[list[int], ...]
    labels: tuple[float, ...]
    lengths: tuple[int, ...]


def describe(cfg: Run, place: Place) -> list[str]:
    cfg.layout.check_rows(cfg.rows, cfg.row_length)
    with jax.sharding.use_abstract_mesh(cfg.mesh.abstract()):
        judge = scorer.shapes(cfg.model, cfg.layout)
    what = "pairs" if cfg.kind == "pairwise" else "responses"
    return [
        f"{lm.count(judge):,} parameters on {cfg.mesh}",
        f"the graded samples of {', '.join(cfg.examples)}, {cfg.epochs} times; {cfg.held_out:.0%} held out",
        f"{cfg.batch} {what} of at most {cfg.longest} tokens an optimizer step, in at most {cfg.microbatches} "
        f"microbatches of {cfg.rows} rows x {cfg.row_length} tokens",
    ]


def run(cfg: Run, place: Place) -> None:
    tokenizer = Tokenizer(place.other(cfg.data))
    tokenizer.check(cfg.model.vocabulary)
    found = [example for stage in cfg.examples for example in examples.read(place.other(stage))]
    items, too_long = judged(cfg, found, tokenizer)
    learned, held_out = split(items, cfg.held_out, cfg.seed)
    require(
        len(learned) > 0 and len(held_out) > 0,
        f"{place.name}: {len(found)} examples of {', '.join(cfg.examples)} make {len(items)} items to learn from and "
        "hold out, too few; lower judge.Run.margin, raise judge.Run.tolerance or longest, or sample more responses",
    )
    steps = math.ceil(cfg.epochs * len(learned) / cfg.batch)
    loss = preference.pairwise if cfg.kind == "pairwise" else preference.pointwise
    with jax.set_mesh(cfg.mesh.make()):
        judge, records = supervised.fit(
            cfg,
            place,
            steps,
            scorer.shapes(cfg.model, cfg.layout),
            first=lambda: jax.jit(partial(scorer.of, layout=cfg.layout))(
                policies.load(place.other(cfg.init), cfg.model, cfg.layout)
            ),
            loss=partial(loss, model=Model(cfg.model, cfg.layout, cfg.remat)),
            batch_of=lambda step: _batch(cfg, learned, step),
            shown=("accuracy",),
        )
        accuracy = _accuracy(cfg, judge, held_out)
    first, second = _lengths(items)
    results = {
        "accuracy": accuracy,
        "held_out": len(held_out),
        "learned": len(learned),
        "too_long": too_long,
        "length_chosen": first,
        "length_rejected": second,
        "init": f"{cfg.init}/{policies.latest(place.other(cfg.init))}",
    }
    if is_main():
        write_atomically(place.folder / "results.json", json.dumps(results, indent=1) + "\n")
    told = {"steps": steps, "accuracy": accuracy, "learned": len(learned), "held_out": len(held_out)}
    like = dataclasses.replace(cfg.model, vocabulary=1)  # a scalar head
    place.finish(told | spent(like, records))


def judged(cfg: Run, found: Sequence[Example], tokenizer: Tokenizer) -> tuple[list[Item], int]:
    """What there is to learn from in graded samples -> (items, how many samples were too long)."""
    samples = [example for example in found if cfg.domain in (None, example.domain)]
    prompts = tokenizer.encode_all([sample.prompt for sample in samples])
    parts = tokenizer.encode_all([part_of(sample.completion, cfg.part) for sample in samples])
    read = [sequence(prompt, part, tokenizer.eos) for prompt, part in zip(prompts, parts, strict=True)]
    fit = [i for i, ids in enumerate(read) if len(ids) <= cfg.longest]
    if cfg.kind == "pointwise":
        groups, labels = [(i,) for i in fit], [(float(samples[i].reward > cfg.threshold),) for i in fit]
    else:
        chosen = pairs.choose(
            [samples[i].prompt for i in fit],
            [samples[i].reward for i in fit],
            [len(parts[i]) for i in fit],
            margin=cfg.margin,
            tolerance=cfg.tolerance,
            seed=cfg.seed,
        )
        groups, labels = [(fit[better], fit[worse]) for better, worse in chosen], [(1.0, -1.0)] * len(chosen)
    items = [
        Item(samples[group[0]].prompt, tuple(read[i] for i in group), label, tuple(len(parts[i]) for i in group))
        for group, label in zip(groups, labels, strict=True)
    ]
    return items, len(samples) - len(fit)


def split(items: Sequence[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """(those to learn from, those held out): a share of the questions, one at least, drawn by the seed."""
    questions = sorted({item.question for item in items})
    count = max(round(share * len(questions)), 1)
    away = {questions[i] for i in np.random.default_rng(seed).permutation(len(questions))[:count]}
    return [i for i in items if i.question not in away], [i for i in items if i.question in away]


def _batch(cfg: Run, items: Sequence[Item], step: int) -> tuple[LabelledBatch, jax.Array, int]:
    """The items of one step, by the feed: (batch, number of microbatches, tokens)."""
    members = [items[i] for i in feed.take(cfg.seed, step * cfg.batch, cfg.batch, len(items))]
    sequences = [ids for item in members for ids in item.sequences]
    labels = [label for item in members for label in item.labels]
    packed, places = collate.pack(sequences, cfg.row_length, cfg.together)
    packed |= {name: np.zeros(packed["tokens"].shape, np.float32) for name in ("weights", "labels")}
    for index, row, column, _ in places:
        end = row, column + len(sequences[index]) - 1
        packed["weights"][end], packed["labels"][end] = 1 / len(sequences), labels[index]
    rows, count = collate.stack(packed, cfg.microbatches, cfg.rows)
    batch = LabelledBatch(
        rows=collate.put_rows(rows, cfg.layout),
        row_weight=collate.put(np.float32(1 / len(packed["tokens"])), jax.P()),
        **{name: collate.put(rows[name], collate.spec(rows[name], cfg.layout)) for name in ("weights", "labels")},
    )
    return batch, collate.put(np.int32(count), jax.P()), sum(map(len, sequences))


def _accuracy(cfg: Run, judge: lm.Policy, items: Sequence[Item]) -> float:
    """Share of the pairs in order, or of the responses on their label's side of 0; ties count half."""
    sequences = [ids for item in items for ids in item.sequences]
    valuer = Valuer(cfg.model, cfg.layout, cfg.rows, cfg.row_length)
    values = valuer.values(judge, sequences, most=len(sequences)).reshape(len(items), cfg.together)
    labels = np.array([item.labels for item in items])
    signed = (values * (labels if cfg.kind == "pairwise" else 2 * labels - 1)).sum(1)
    return float(((np.sign(signed) + 1) / 2).mean())


def _lengths(items: Sequence[Item]) -> tuple[float | None, float | None]:
    """Mean tokens of what was judged, of those chosen (or labelled 1) and of the others; None where there are none."""
    flat = [(label > 0, length) for item in items for label, length in zip(item.labels, item.lengths, strict=True)]
    sides = [[length for liked, length in flat if liked == side] for side in (True, False)]
    return tuple(sum(side) / len(side) if side else None for side in sides)
