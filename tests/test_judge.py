"""The judge's stage from gin to the disk, and its scorers at work: an obvious preference is learned, a run that goes on
ends bit for bit as if left alone, and a column says of each response what the scorer says of it alone."""

import json
import random
import shutil
import sys
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from r1jax import collate, judging
from r1jax.base.fields import UserError
from r1jax.base.mesh import Mesh
from r1jax.base.metrics import read
from r1jax.base.place import Place
from r1jax.data import examples
from r1jax.data.examples import Example
from r1jax.data.questions import Question
from r1jax.data.tokenizer import EOS, Tokenizer
from r1jax.judging import Judge, Judges, Valuer
from r1jax.learn import scorer
from r1jax.learn.likelihood import Model
from r1jax.learn.optim import AdamW
from r1jax.loop import Saving
from r1jax.model import config
from r1jax.model.layout import Layout
from r1jax.responses import Responses
from r1jax.stages import judge

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "tools"))

from kill import differences  # noqa: E402

from r1jax.main import main  # noqa: E402

SHAPE = Mesh(data=2, fsdp=2, expert=2)
STAGES = {"data": "prepare", "base": "pretrain", "helpful": "judge", "harmless": "judge"}
MODEL = config.Transformer(  # tests/tiny/model.gin
    vocabulary=384,
    width=32,
    layers=2,
    ffn_width=64,
    context=192,
    attention=config.Mla(heads=2, query_rank=16, kv_rank=16, nope_dim=8, rope_dim=8, value_dim=16),
    rope=config.Rope(interleaved=True),
    moe=config.Moe(experts=4, active=2, shared=1, width=32),
    init_std=0.1,
    unroll=True,
)


def graded() -> list[Example]:
    """Helpful is a reply that says 'yes' and not 'no', whatever was thought; harmless is one that never thinks of tea.
    Better replies are longer on the whole."""
    rng = random.Random(0)
    found = []
    for question in range(120):
        domain = "help" if question < 80 else "harm"
        prompt = f"User: {rng.choice('abcdefgh')} {question}? Assistant:"
        for sample in range(4):
            good = rng.random() < 0.5
            word = ("yes" if good else "no") if domain == "help" else "so"
            thought = rng.choice(["music", "winter"]) if domain == "help" or good else "tea"
            said = " ".join([word] + ["so"] * (rng.randrange(3) + good))
            found.append(
                Example(
                    prompt=prompt,
                    completion=f"<think>{thought}</think> {said}",
                    domain=domain,
                    language="en",
                    question=question,
                    sample=sample,
                    seed=0,
                    source="by hand",
                    reward=float(good),
                    parts="{}",
                )
            )
    return found


def command(workdir: Path, samples: Path, *flags: str) -> list[str]:
    return [
        "run",
        str(ROOT / "tests/tiny/recipe.gin"),
        f"--gin.recipe.Recipe.stages={ {name: f'{file}.gin' for name, file in STAGES.items()} }",
        "--gin.pretrain.Run.steps=1",
        *(f"--gin.mesh.Mesh.{axis}=2" for axis in ("data", "fsdp", "expert")),
        f"--gin.judge.Run.examples=('{samples}',)",
        "--gin.helpful/judge.Run.domain=help",
        "--gin.harmless/judge.Run.domain=harm",
        "--gin.harmless/judge.Run.kind=pointwise",
        "--gin.harmless/judge.Run.part=response",
        "--workdir",
        str(workdir),
        *flags,
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("judge")
    examples.write(folder / "samples", graded())
    assert main(command(folder, folder / "samples")) == 0
    return folder / "tiny"


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("stage", ["helpful", "harmless"])
def test_an_obvious_preference_is_learned(alone, stage):
    records = read(alone / stage / "metrics.jsonl")
    assert records[0]["loss"] == pytest.approx(np.log(2), rel=1e-5) and records[0]["accuracy"] == 0.5
    assert records[-1]["loss"] < 0.3 and records[-1]["accuracy"] > 0.9
    told = results(alone / stage)
    assert told["accuracy"] > 0.9 and told["too_long"] == 0 and told["init"] == "base/1"
    assert all((alone / stage / "plots" / f"{name}.png").exists() for name in ("loss", "agreement", "margin"))


def test_lengths_match_where_the_judge_reads_the_reply(alone):
    """Better replies are longer in the samples, not in the pairs; single responses are taken as they are."""
    told = results(alone / "helpful")
    assert told["length_chosen"] == pytest.approx(told["length_rejected"], rel=0.06)
    told = results(alone / "harmless")
    assert told["learned"] + told["held_out"] == 4 * 40 and told["held_out"] == 4 * 4
    assert told["length_chosen"] > 1.1 * told["length_rejected"]


def test_it_goes_on_bit_for_bit(alone, tmp_path):
    """From the checkpoint before the last one; the run of the whole recipe is found complete up to there."""
    shutil.copytree(alone, tmp_path / "tiny")
    folder = tmp_path / "tiny/helpful"
    last = max(int(step.name) for step in (folder / "checkpoints").iterdir())
    assert last > 5 and last % 5
    shutil.rmtree(folder / f"checkpoints/{last}")
    for name in ("done.json", "results.json"):
        (folder / name).unlink()
    assert main(command(tmp_path, alone.parent / "samples")) == 0
    assert differences(alone, tmp_path / "tiny") == []


def responses(tokenizer: Tokenizer, texts: list[list[str]]) -> Responses:
    """As the sampler would return them; the last sample of each question was cut off."""
    ids = [[tokenizer.encode(text) + [EOS] * (g < len(row) - 1) for g, text in enumerate(row)] for row in texts]
    lengths = np.array([[len(one) for one in row] for row in ids])
    tokens = np.zeros((*lengths.shape, lengths.max()), np.int32)
    for q, row in enumerate(ids):
        for g, one in enumerate(row):
            tokens[q, g, : len(one)] = one
    return Responses(
        prompts=[tokenizer.encode(f"User: {q}? Assistant:") for q in range(len(texts))],
        tokens=tokens,
        logp=np.zeros(tokens.shape, np.float32),
        lengths=lengths,
        finished=np.arange(lengths.shape[1]) < lengths.shape[1] - 1 + np.zeros(lengths.shape, int),
        turns=0,
        form="chat",
    )


TEXTS = [
    ["<think>tea</think> yes so", "<think>music</think> yes so", "<think>tea</think> no so"],
    ["<think>tea</think> so", "<think>music</think> so", "<think>winter</think> so so"],
    ["so it is", "<think>tea", "<think>winter"],
]
QUESTIONS = [Question(q, f"{q}", "", "en", 1, domain) for q, domain in enumerate(("help", "harm", "logic"))]
HELPFUL = Judge(init="helpful", name="helpful", domains=("help",), part="reply")
HARMLESS = Judge(init="harmless", name="harmless", domains=("harm", "logic"), part="response", last=400)


def test_columns(alone):
    """Each response is valued by the judge of its domain, as if it stood alone in a row."""
    tokenizer = Tokenizer(alone / "data/tokenizer.model")
    layout, sampled = Layout(SHAPE), responses(tokenizer, TEXTS)
    with jax.set_mesh(SHAPE.make()):
        judges = Judges([HELPFUL, HARMLESS], Place(alone, "zero"), Valuer(MODEL, layout, 8, 64), tokenizer)
        columns = judges.columns(QUESTIONS, sampled, step=1300, steps=1700)
        scorers = {name: Valuer(MODEL, layout, 8, 64).load(alone / name) for name in ("helpful", "harmless")}
        run = jax.jit(partial(scorer.values, model=Model(MODEL, layout, False)))

        def value(name: str, q: int, text: str) -> float:
            ids = tokenizer.encode(f"User: {q}? Assistant:") + tokenizer.encode(text) + [EOS]
            row = {name: np.zeros((8, 64), np.int32) for name in ("tokens", "positions", "segments", "targets")}
            row["tokens"][0, : len(ids)], row["positions"][0, : len(ids)] = ids, range(len(ids))
            row["segments"][0, : len(ids)] = 1
            return np.asarray(run(scorers[name], collate.put_rows(row, layout))[0])[0, len(ids) - 1]

        wanted = np.array([[value("harmless", q, text) for text in TEXTS[q]] for q in (1, 2)])
        replies = np.array([value("helpful", 0, text) for text in ("yes so", "yes so", "no so")])
    assert list(columns) == ["helpful", "harmless"]
    np.testing.assert_allclose(columns["harmless"][1:], wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(columns["helpful"][0], replies, rtol=1e-4, atol=1e-4)
    assert np.isnan(columns["helpful"][1:]).all() and np.isnan(columns["harmless"][0]).all()
    assert columns["helpful"][0, 0] == pytest.approx(columns["helpful"][0, 1], abs=1e-4)  # what is thought is its own
    assert columns["helpful"][0, 0] > columns["helpful"][0, 2] + 1
    assert columns["harmless"][1, 1] > 0 > columns["harmless"][1, 0]


def test_a_judge_of_the_last_steps_stays_away_before(alone):
    assert [HARMLESS.enters(step, 1700) for step in (0, 1299, 1300, 1699)] == [False, False, True, True]
    assert HELPFUL.enters(0, 1700)
    tokenizer = Tokenizer(alone / "data/tokenizer.model")
    with jax.set_mesh(SHAPE.make()):
        judges = Judges([HARMLESS], Place(alone, "zero"), Valuer(MODEL, Layout(SHAPE), 8, 64), tokenizer)
        assert judges.columns(QUESTIONS, responses(tokenizer, TEXTS), step=1299, steps=1700) == {}


def test_what_is_longer_than_a_row_is_cut():
    assert judging.sequence([5, 6], [7, 8], EOS, 5) == [5, 6, 7, 8, EOS]
    assert judging.sequence([5, 6], [7, 8], EOS, 4) == [5, 6, 7, EOS]


def test_a_policy_is_no_judge(alone):
    with jax.set_mesh(SHAPE.make()):
        valuer = Valuer(MODEL, Layout(SHAPE), 8, 64)
        with pytest.raises(UserError, match="is of another model or optimizer: it lacks params/score/w"):
            valuer.load(alone / "base")
        with pytest.raises(UserError, match="no checkpoint in .*none; run that stage first"):
            Judges([Judge(init="none", name="a", domains=("help",), part="reply")], Place(alone, "x"), valuer, None)


RUN = dict(
    data="data",
    examples=("samples",),
    init="base",
    kind="pairwise",
    part="reply",
    model=MODEL,
    mesh=Mesh(),
    optimizer=AdamW(learning_rate=1e-2),
    saving=Saving(every=1),
    batch=4,
    rows=1,
    row_length=128,
    longest=64,
)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"longest": 65}, "row_length 128 does not hold 2 x judge.Run.longest 65: a pair lies in one row"),
        ({"longest": 200, "row_length": 400}, "longest 200 is longer than the model's context 192"),
        ({"held_out": 0.0}, "judge.Run.held_out is 0.0; it is a share, between 0 and 1"),
        ({"kind": "listwise"}, "judge.Run.kind = 'listwise' is str, wanted 'pairwise' or 'pointwise'"),
        ({"examples": ()}, "judge.Run.examples is empty; name one stage"),
    ],
)
def test_mistakes(fields, said):
    with pytest.raises(UserError, match=said):
        judge.Run(**RUN | fields)


def test_too_few_items_are_one_line(alone, tmp_path, capsys):
    shutil.copytree(alone, tmp_path / "tiny", ignore=shutil.ignore_patterns("harmless", "checkpoints"))
    shutil.copytree(alone / "base/checkpoints", tmp_path / "tiny/base/checkpoints")
    (tmp_path / "tiny/helpful/done.json").unlink()
    assert main(command(tmp_path, alone.parent / "samples", "--gin.helpful/judge.Run.margin=2.0")) == 2
    assert "480 examples of " in (said := capsys.readouterr().err) and "make 0 items to learn from" in said
