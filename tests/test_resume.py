"""A recipe that is killed and stopped again and again ends as if it had been left alone, bit for bit; on another mesh
up to rounding. tools/kill.py is the long form, at random instants."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from r1jax.base.metrics import read
from r1jax.main import main

ROOT = Path(__file__).parent.parent
TINY = str(ROOT / "tests/tiny/recipe.gin")
sys.path.append(str(ROOT / "tools"))

from kill import differences  # noqa: E402


def go(workdir: Path, instant: str = "no") -> subprocess.CompletedProcess:
    """The tiny recipe on one device, with a signal at an instant."""
    env = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "tests/interrupted.py", instant, "run", TINY, "--workdir", str(workdir)]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("alone")
    done = go(workdir)
    assert done.returncode == 0, done.stderr
    return workdir / "tiny"


def test_killed_and_stopped_it_ends_bit_for_bit_as_if_left_alone(alone, tmp_path):
    """Saved are steps 5, 10, 15 of the base; 3, 6, 9, 12 of zero, whose rollouts begin at 1, 5, 9, and its reference
    of step 8. So the second stop falls into a rollout, and the last kill comes when the next one is under way."""
    assert go(tmp_path, "KILL:base:7").returncode == -9
    stopped = go(tmp_path, "TERM:zero:6")
    assert stopped.returncode == 0 and stopped.stderr == "", stopped.stderr
    assert "stopped at zero, step 7; the same command goes on from there" in stopped.stdout
    assert read(tmp_path / "tiny/zero/metrics.jsonl")[-1]["step"] == 7
    assert go(tmp_path, "KILL:zero:10").returncode == -9
    assert go(tmp_path).returncode == 0
    assert differences(alone, tmp_path / "tiny") == []


def test_on_another_mesh_it_goes_on_up_to_rounding(alone, tmp_path, capsys):
    """From step 9 of zero, inside its last rollout, on eight devices instead of one."""
    shutil.copytree(alone, tmp_path / "tiny")
    zero = tmp_path / "tiny/zero"
    shutil.rmtree(zero / "checkpoints/12")
    (zero / "done.json").unlink()
    mesh = [f"--gin.zero/mesh.Mesh.{axis}=2" for axis in ("data", "fsdp", "expert")]
    assert main(["run", TINY, "--workdir", str(tmp_path), *mesh]) == 0
    said = capsys.readouterr().out.splitlines()
    assert (
        "zero: Run.mesh.data was 1, is now 2; Run.mesh.fsdp was 1, is now 2; Run.mesh.expert was 1, is now 2"
    ) in said
    assert (
        "zero, step 9: mesh was one device, is now data 2 x fsdp 2 x expert 2: from here on equal up to rounding only"
    ) in said
    before, now = (read(folder / "zero/metrics.jsonl") for folder in (alone, tmp_path / "tiny"))
    assert [record["step"] for record in now] == list(range(1, 13)) and now[:9] == before[:9]
    for one, other in zip(before[9:], now[9:], strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {key for key in one if key.startswith("time/")}:
            assert one[key] == pytest.approx(other[key], rel=1e-3, abs=1e-5), key
