"""Rejection sampling and fine-tuning: what is kept and why, what is written, what is learned from it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from r1jax.base.metrics import read
from r1jax.data import examples, tokenizer
from r1jax.data.examples import Example
from r1jax.data.questions import Question
from r1jax.data.rewriting import ForReader
from r1jax.data.tokenizer import EOS, Tokenizer
from r1jax.data.world import World
from r1jax.data.world import examples as of_world
from r1jax.main import main
from r1jax.reward.answers import parse
from r1jax.reward.grade import grade
from r1jax.reward.response import Response
from r1jax.reward.selection import Filter, repetition
from r1jax.stages import finetune

TINY = Path(__file__).parent / "tiny"
STAGES = {"data": "prepare.gin", "base": "pretrain.gin", "curated": "curate.gin", "tuned": "finetune.gin"}
FLAGS = [
    f"--gin.recipe.Recipe.stages={STAGES}",
    "--gin.pretrain.Run.steps=4",
    "--gin.world.World.helpful=0.2",
    "--gin.world.World.harmless=0.1",
    "--gin.prepare.Run.vocabulary=512",
    "--gin.config.Transformer.vocabulary=512",
    "--gin.mesh.Mesh.data=4",
    "--gin.mesh.Mesh.fsdp=2",
]
QUESTION = Question(id=0, text="What is 7+5*3?", answer="6", language="en", difficulty=2)


@pytest.mark.parametrize(
    "text, tokens, truncated, reason",
    [
        ("<think>7+5=2*3=6 so 6</think><answer>6</answer>", 20, False, None),
        ("<think>7+5=2*3=6</think><answer>6</answer>", 20, False, None),
        ("<think>7+5=2*3=6</think><answer>6</answer>", 20, True, "truncated"),
        ("7+5=2*3=6 so 6", 20, False, "unparsable"),
        ("<think></think><answer>6</answer>", 20, False, "unparsable"),
        ("<think>7+5=2*3=7</think><answer>7</answer>", 20, False, "wrong"),
        ("<think>so 7+5得2*3=6</think><answer>6</answer>", 20, False, "mixed"),
        ("<think>7+5=2*3=6</think><answer>6</answer>", 41, False, "long"),
        ("<think>" + "7+5=2 wait 7+5=2 wait " * 5 + "</think><answer>6</answer>", 40, False, "repeating"),
    ],
)
def test_a_response_goes_for_a_reason(text, tokens, truncated, reason):
    response = Response(text, tokens, truncated)
    assert Filter(tokens=40).reason(response, grade(QUESTION, response), 1.0) == reason


def test_of_a_question_the_first_few_that_differ_stay():
    chosen = Filter(per_question=2).choose(["a", "b", "a", "c", "d"], [None, "wrong", None, None, None])
    assert chosen == [None, "wrong", "twice", None, "beyond"]
    assert (
        Filter(reward=1.5).reason(
            Response("<think>6</think><answer>6</answer>", 9, False),
            grade(QUESTION, Response("<think>6</think><answer>6</answer>", 9, False)),
            1.0,
        )
        == "poor"
    )


def test_repetition_counts_the_most_frequent_piece():
    assert repetition("short") == 1
    assert repetition("abcdefghijklmnopqrst" * 3) == 3
    assert repetition("".join(map(chr, range(100, 300)))) == 1


@pytest.mark.parametrize(
    "language, thinking, wanted",
    [
        ("en", "7+5得2等等7+5=2*3得6", "<think>7+5=2 wait 7+5=2*3=6</think>The answer is 6."),
        ("zh", "7+5=2 wait 7+5得2 so 2", "<think>7+5得2等等7+5得2所以2</think>答案是6。"),
    ],
)
def test_a_reader_meets_one_language_and_a_summary(language, thinking, wanted):
    question = Question(id=0, text="", answer="6", language=language, difficulty=2)
    text = ForReader().rewrite(question, thinking, "6")
    assert text == wanted
    assert parse(text, "chat").answer == "6"
    graded = grade(question, Response(text, 20, False, form="chat"))
    assert graded.correct and graded.language == 1


def test_only_completions_are_learned(tmp_path):
    path = epath.Path(tmp_path) / "tokenizer.model"
    tokenizer.train([e["text"] for e in of_world(World(documents=500), "pretrain")], path, vocabulary=384)
    found = Tokenizer(path)
    make = lambda prompt, completion: Example(prompt, completion, "math", "en", 0, 0, 0, "", 0.0, "{}")  # noqa: E731
    packed, used = finetune.pack(
        [make("What is 1?", " 1"), make("Compute 2.", " It is 2."), make("7" * 99, "7")], found, 48
    )
    assert used == 2
    learned = [
        found.decode([int(t) for t in row[w > 0]]) for row, w in zip(packed["targets"], packed["weights"], strict=True)
    ]
    assert sorted("".join(learned)) == sorted(" 1 It is 2.")
    ends = (packed["targets"] == EOS) & (packed["weights"] > 0)
    assert ends.sum() == 2
    assert not np.any(packed["weights"] * (packed["targets"] == 0))


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("ran")
    assert main(["run", str(TINY / "recipe.gin"), "--workdir", str(workdir), *FLAGS]) == 0
    return workdir / "tiny"


def test_curated_examples_say_where_they_come_from(ran):
    found = examples.read(epath.Path(ran / "curated"))
    table = json.loads((ran / "curated/yield.json").read_text())
    assert sum(row["sampled"] for row in table.values()) == 16
    assert all(row["sampled"] == sum(n for reason, n in row.items() if reason != "sampled") for row in table.values())
    general = [example for example in found if example.source == "general"]
    assert len(general) == 40 and {example.domain for example in general} == {"helpful", "harmless"}
    for example in general:
        assert example.prompt.startswith("User: ") and example.prompt.endswith(" Assistant:")
        assert parse(example.completion, "chat") is not None
    assert len(found) - 40 == sum(row.get("kept", 0) for row in table.values())


def test_fine_tuning_learns_them_and_a_stage_that_is_complete_stays(ran, capsys):
    losses = [record["loss"] for record in read(ran / "tuned/metrics.jsonl")]
    assert losses[-1] < losses[0] - 0.5
    done = json.loads((ran / "tuned/done.json").read_text())
    assert done["examples"] == len(examples.read(epath.Path(ran / "curated"))) and done["too_long"] == 0


OTHERS = {
    "curate.Run.init=tuned": "checkpoint",
    "curate.Run.seed=1": "seed",
    "curate.Run.questions=4": "questions",
    "curate.Run.rewards=(@rules.Accuracy(),)": "rewards",
    "sampler.Sampler.samples=4": "sampler",
    "sampler.Sampler.temperature=0.5": "sampler",
    "template.Zero.text='{question} User:'": "template",
}


@pytest.fixture
def cut_off(ran, tmp_path) -> Path:
    """The folder of its curation, of which a part is on the disk."""
    curated = Path(shutil.copytree(ran, tmp_path / "tiny")) / "curated"
    lines = (curated / "samples.jsonl").read_text().splitlines(keepends=True)
    (curated / "samples.jsonl").write_text("".join(lines[:11]))  # a chunk of 8 responses, and part of the next
    (curated / "done.json").unlink()
    shutil.rmtree(curated / "examples")
    return curated


@pytest.mark.parametrize("other, named", OTHERS.items(), ids=OTHERS)
def test_a_curation_does_not_go_on_under_other_settings(other, named, cut_off, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in cut_off.iterdir() if path.is_file()}
    again = ["run", str(TINY / "recipe.gin"), "--workdir", str(tmp_path), *FLAGS, f"--gin.curated/{other}"]
    assert main(again) == 2
    said = f"{cut_off}/samples.jsonl holds answers under other settings ({named}); go back to those, or remove the file"
    assert capsys.readouterr().err == f"r1jax: {said}\n"
    assert {path.name: path.read_bytes() for path in cut_off.iterdir() if path.is_file()} == before


def test_samples_of_settings_that_nobody_knows_are_not_gone_on_with(cut_off, tmp_path, capsys):
    (cut_off / "settings.json").unlink()
    assert main(["run", str(TINY / "recipe.gin"), "--workdir", str(tmp_path), *FLAGS]) == 2
    assert "holds answers under other settings (checkpoint, data, task, " in capsys.readouterr().err


def test_a_curation_that_was_cut_off_goes_on(ran, cut_off, tmp_path):
    assert main(["run", str(TINY / "recipe.gin"), "--workdir", str(tmp_path), *FLAGS]) == 0
    for name in ("samples.jsonl", "settings.json"):
        assert (cut_off / name).read_text() == (ran / "curated" / name).read_text()
    assert examples.read(epath.Path(cut_off)) == examples.read(epath.Path(ran / "curated"))
