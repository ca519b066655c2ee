"""One process of eight devices against two of four: the same samples and numbers, one writer, one stop for both."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from r1jax.base.metrics import read
from r1jax.main import main

ROOT = Path(__file__).parent.parent
STAGES = {"data": "prepare", "base": "pretrain", "zero": "reinforce", "evaluate_zero": "evaluate"}
RUN = [
    "run",
    str(ROOT / "tests/tiny/recipe.gin"),
    f"--gin.recipe.Recipe.stages={ {name: f'{file}.gin' for name, file in STAGES.items()} }",
    "--gin.mesh.Mesh.fsdp=4",
    "--gin.mesh.Mesh.expert=2",
    "--gin.pretrain.Run.steps=6",
    "--gin.reinforce.Run.steps=8",
    "--gin.evaluate.Run.questions=8",
]


def two(workdir: Path, *instants: str) -> list[subprocess.CompletedProcess]:
    """Both processes of a run, each with a signal at an instant; only the first may write a file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0",
        "PYTHONPATH": str(ROOT),
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
    }
    started = []
    for index, instant in enumerate(instants):
        command = [sys.executable, "tests/interrupted.py", instant, *RUN, "--gin.mesh.Mesh.processes=auto"]
        process = subprocess.Popen(
            [*command, "--workdir", str(workdir)],
            env=env | {"JAX_PROCESS_ID": str(index)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
    said = [process.communicate(timeout=1200) for process in started]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *texts)
        for process, texts in zip(started, said, strict=True)
    ]


def is_silent(process: subprocess.CompletedProcess) -> bool:
    """Whether a process printed nothing but the greetings of the CPU's collectives, which run into each other."""
    return not any(word in process.stdout for word in ("tiny", "step", "stopped", *STAGES))


@pytest.mark.timeout(3000)  # six starts of a whole recipe, with collectives between processes that share few cores
def test_two_processes_make_the_same_run_as_one(tmp_path):
    assert main([*RUN, "--workdir", str(tmp_path / "one")]) == 0
    first, second = two(tmp_path / "two", "no", "TERM:base:2")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "stopped at base, step 3; the same command goes on from there" in first.stdout
    assert is_silent(second) and "Traceback" not in first.stderr + second.stderr
    assert len(read(tmp_path / "two/tiny/base/metrics.jsonl")) == 3
    first, second = two(tmp_path / "two", "no", "no")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "evaluate_zero" in first.stdout and is_silent(second)
    one, other = tmp_path / "one/tiny", tmp_path / "two/tiny"
    for stage in ("base", "zero"):
        before, now = (read(folder / stage / "metrics.jsonl") for folder in (one, other))
        assert len(before) == len(now)
        for one_record, other_record in zip(before, now, strict=True):
            assert one_record.keys() == other_record.keys()
            for key in (key for key in one_record if not key.startswith("time/")):
                assert other_record[key] == pytest.approx(one_record[key], rel=1e-3, abs=1e-5), (stage, key)
    for stage in ("zero", "evaluate_zero"):
        texts = [[record["completion"] for record in read(folder / stage / "samples.jsonl")] for folder in (one, other)]
        assert texts[0] == texts[1] and len(texts[0]) >= 8
