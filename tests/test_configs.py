"""Every file under configs/ builds: recipes and stages dry-run; the others in a stage that takes them."""

from pathlib import Path

import pytest

from r1jax.main import main

CONFIGS = Path(__file__).parent.parent / "configs"
ZERO = CONFIGS / "stages" / "miniature_zero.gin"


def files(folder: str) -> list[Path]:
    found = sorted((CONFIGS / folder).glob("*.gin"))
    assert found
    return found


def name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", [*files("recipes"), *files("stages")], ids=name)
def test_runs_dry(path, capsys):
    assert main(["run", str(path), "--dry_run"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("path", files("tasks"), ids=name)
def test_a_stage_reads_it(path):
    assert [file for file in files("stages") if f"include 'tasks/{path.name}'" in file.read_text()]


@pytest.mark.parametrize("path", [*files("algorithms"), *files("meshes"), *files("models")], ids=name)
def test_fits_the_stage(path, capsys):
    extra = [f"--gin_file={path}"]
    if path.parent.name == "meshes":  # the largest mesh wants the largest model, and rows for all its shards
        extra += [f"--gin_file={CONFIGS / 'models' / 'deepseek_v3.gin'}", "--gin.reinforce.Run.rows=512"]
        extra += ["--gin.sampler.Sampler.slots=512"]
    assert main(["run", str(ZERO), "--dry_run", *extra]) == 0, capsys.readouterr().err
    assert "sequences a rollout" in capsys.readouterr().out
