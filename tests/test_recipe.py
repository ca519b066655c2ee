"""The whole recipe of DeepSeek-R1, every stage in its order, with a model and worlds for tests."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from etils import epath

from r1jax.base.metrics import read
from r1jax.data import examples

ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "configs/recipes/miniature.gin"
SMALL = {
    "world.World.documents": 3000,
    "world.World.rl": 400,
    "world.World.validation": 20,
    "world.World.test": 40,
    "pretrain.Run.steps": 60,
    "base/pretrain.Run.steps": 60,
    "config.Transformer.width": 64,
    "config.Transformer.ffn_width": 64,
    "sampler.Sampler.samples": 4,
    "sampler.Sampler.response_tokens": 32,
    "sampler.Sampler.slots": 32,
    "reinforce.Run.questions": 16,
    "reinforce.Run.steps": 4,
    "reinforce.Run.rows": 8,
    "r1/helpful/mixture.Share.last": 2,
    "r1/harmless/mixture.Share.last": 2,
    "evaluate.Run.questions": 40,
    "curate.Run.questions": 32,
    "curate.Run.general": 96,
    "graded/curate.Run.general": 0,
    "finetune.Run.rows": 8,
    "finetune.Run.epochs": 12,
    "judge.Run.margin": 0.0,
    "judge.Run.tolerance": None,
    "judge.Run.held_out": 0.2,
    "graded/sampler.Sampler.samples": 8,
    "optim.AdamW.learning_rate": 3e-3,
    "r1/optim.AdamW.warmup": 0,
}

BINDINGS = re.findall(r"^    '([^'/]+=[^']+)',$", RECIPE.read_text(), re.MULTILINE)


def run(file: Path, workdir: Path, bindings: dict) -> None:
    """On one device: eight emulated ones would take most of the time for themselves."""
    flags = [f"--gin.{name}={value}" for name, value in bindings.items()]
    command = [sys.executable, "-m", "r1jax.main", "run", str(file), "--workdir", str(workdir), *flags]
    env = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # compiles in half the time
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("whole")
    run(RECIPE, workdir, SMALL)
    return workdir / "miniature"


def test_every_stage_comes_to_its_end(ran):
    stages = json.loads((ran / "recipe.json").read_text())["stages"]
    assert len(stages) == 23
    assert all((ran / stage / "done.json").exists() for stage in stages)
    assert (ran / "report.html").exists() and (ran / "report.md").exists()


def test_what_one_stage_leaves_the_next_reads(ran):
    found = {stage: examples.read(epath.Path(ran / stage)) for stage in ("cold_start", "curated", "graded")}
    assert {e.source for e in found["graded"]} == {f"dev3/{read(ran / 'dev3/metrics.jsonl')[-1]['step']}"}
    assert {e.domain for e in found["graded"]} <= {"helpful", "harmless"}
    results = {stage: json.loads((ran / stage / "results.json").read_text()) for stage in ("evaluate_r1", "helpful")}
    assert results["evaluate_r1"]["checkpoint"] == "r1/4" and results["helpful"]["learned"] > 0
    assert set(results["evaluate_r1"]["by_domain"]) >= {"math", "code", "helpful"}


def test_judges_enter_in_the_last_part_only(ran):
    rollouts = [record for record in read(ran / "r1/metrics.jsonl") if "reward/mean" in record]
    assert [record["step"] for record in rollouts] == [1, 3]
    assert "reward/helpful" not in rollouts[0] and "reward/helpful" in rollouts[1]


def test_a_student_learns_from_logits_and_on_its_own_samples(ran, tmp_path):
    """The other ways of distillation, as runs of their own that read the recipe's stages by their paths."""
    stages = ROOT / "configs/stages"
    small = {name: value for name, value in SMALL.items() if name.split(".")[0] in ("config", "optim")}
    small |= {"teacher/config.Transformer.width": 64, "teacher/config.Transformer.ffn_width": 64}
    small |= {"config.Transformer.vocabulary": 640, "policies.Teacher.init": ran / "r1"}
    logits = small | {"finetune.Run.data": ran / "data", "finetune.Run.init": ran / "student_base"}
    logits |= {"finetune.Run.examples": (str(ran / "curated"),), "finetune.Run.epochs": 8, "finetune.Run.rows": 8}
    run(stages / "miniature_distill_logits.gin", tmp_path, logits)
    folder = tmp_path / "miniature_distill_logits/miniature_distill_logits"
    divergence = [record["loss/divergence"] for record in read(folder / "metrics.jsonl")]
    assert divergence[-1] < 0.8 * divergence[0]

    sampling = {name: v for name, v in SMALL.items() if name.split(".")[0] in ("sampler", "reinforce", "world")}
    own = small | sampling | {"reinforce.Run.data": ran / "data", "reinforce.Run.init": ran / "student_distilled"}
    own |= dict(binding.split("=") for binding in BINDINGS if binding.startswith("world"))
    run(stages / "miniature_distill_on_policy.gin", tmp_path, own)
    folder = tmp_path / "miniature_distill_on_policy/miniature_distill_on_policy"
    records = read(folder / "metrics.jsonl")
    assert len(records) == 4 and all(record["kl"] > 0 for record in records)
