"""The README's example of a task and a reward of one's own, run as it stands there."""

import re
from pathlib import Path

import pytest

from r1jax.base.metrics import read
from r1jax.main import main

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "tests" / "tiny" / "recipe.gin"
FLAGS = [
    "--gin.recipe.Recipe.stages={'data': 'prepare.gin', 'base': 'pretrain.gin', 'zero': 'reinforce.gin'}",
    "--gin.pretrain.Run.steps=4",
    "--gin.reinforce.Run.steps=4",
    "--gin.mesh.Mesh.data=8",
]


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """The two blocks as files, beside which r1jax is started."""
    part = re.search(
        r"### Your own questions, task or reward\n(.*?)\n## ", (ROOT / "README.md").read_text(), re.DOTALL
    )[1]
    code, gin = re.findall(r"```(?:python)?\n(.*?)```", part, re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    (tmp_path / "mine.gin").write_text(gin)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_example_runs(beside, capsys):
    assert main(["run", str(RECIPE), *FLAGS, "--gin_file=mine.gin"]) == 0, capsys.readouterr().err
    folder = beside / "runs" / "tiny" / "zero"
    config = (folder / "config.gin").read_text()
    assert "reinforce.Run.task = @mine.Doubling()" in config and "Brief.limit = 12" in config
    first = read(folder / "metrics.jsonl")[0]
    assert {"reward/accuracy", "reward/brief"} <= first.keys() and 0 <= first["reward/brief"] <= 1
    prompts = [sample["prompt"] for sample in read(folder / "samples.jsonl")]
    assert prompts and all(re.fullmatch(r"User: What is (\d+)\+\1\? Assistant:", prompt) for prompt in prompts)


def test_a_mistake_with_it_is_named(beside, capsys):
    assert main(["run", str(RECIPE), *FLAGS, "--gin_file=mine.gin", "--gin.reinforce.Run.task=@mine.Brief()"]) == 2
    assert "wanted Task" in capsys.readouterr().err
