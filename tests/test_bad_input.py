"""A user's mistakes with a real recipe: one line that says what is wrong, where, and what would be right; status 2;
nothing written over. Mistakes in gin and on the command line itself: test_command_line.py."""

import re
import shutil
from pathlib import Path

import pytest

from r1jax.base.metrics import read
from r1jax.main import main

TINY = Path(__file__).parent / "tiny"
MESH = ["--gin.mesh.Mesh.data=8"]


def stages(**files: str) -> str:
    return f"--gin.recipe.Recipe.stages={ {name: f'{file}.gin' for name, file in files.items()} }"


BASE = stages(data="prepare", base="pretrain")
ALL = {"data": "prepare", "base": "pretrain", "zero": "reinforce", "evaluate_zero": "evaluate"}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A run whose data and base are complete, with checkpoints of steps 2 and 4."""
    workdir = tmp_path_factory.mktemp("base")
    shown = ["--gin.pretrain.Run.steps=4", "--gin.loop.Saving.every=2"]
    assert main(["run", str(TINY / "recipe.gin"), "--workdir", str(workdir), BASE, *MESH, *shown]) == 0
    return workdir


@pytest.fixture
def begun(base, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(base, tmp_path / "begun"))


@pytest.fixture
def mistake(capsys):
    """Runs the tiny recipe with a mistake in it: (the line it says, what it printed before). What was there stays."""

    def says(workdir: Path, *flags: str, recipe: Path | str = TINY / "recipe.gin") -> tuple[str, str]:
        before = _contents(workdir)
        capsys.readouterr()
        assert main(["run", str(recipe), "--workdir", str(workdir), *MESH, *flags]) == 2
        out, err = capsys.readouterr()
        assert re.fullmatch(r"r1jax: [^\n]+\n", err), err
        after = _contents(workdir)
        assert {path: after.get(path) for path in before} == before
        return err, out

    return says


def _contents(folder: Path) -> dict[Path, bytes]:
    apart = ("recipe.json", "times.json")  # they grow
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in apart}


BEFORE_ANY_WORK = {
    "mesh and devices": (
        ["--gin.mesh.Mesh.data=3"],
        "the mesh (data 3) wants 3 devices, there are 8: Mesh.fsdp = 8 and every other axis 1 would fit",
    ),
    "mesh and heads": (
        ["--gin.mesh.Mesh.data=2", "--gin.mesh.Mesh.tensor=4"],
        "Mesh.tensor 4 does not divide the model's heads 2; choose a divisor of it",
    ),
    "mesh and experts": (
        ["--gin.mesh.Mesh.data=1", "--gin.mesh.Mesh.expert=8"],
        "Mesh.expert 8 does not divide the model's 4 experts",
    ),
    "mesh of sampling": (
        ["--gin.mesh.Mesh.rollout=(4, 1, 1, 1, 1)"],
        "Mesh.rollout = (4, 1, 1, 1, 1) has 4 devices, the mesh has 8",
    ),
    "mesh of the last stage": (
        ["--gin.evaluate_zero/mesh.Mesh.data=2", "--gin.evaluate_zero/mesh.Mesh.expert=4"]
        + ["--gin.evaluate_zero/config.Moe.experts=6"],
        "Mesh.expert 4 does not divide the model's 6 experts",
    ),
    "rows and mesh": (
        ["--gin.reinforce.Run.rows=4"],
        "a microbatch of 4 rows is no multiple of the mesh's 8 shards of rows (data x fsdp x expert)",
    ),
    "slots and mesh": (
        ["--gin.sampler.Sampler.slots=12"],
        "Sampler.slots 12 is no multiple of the mesh's 8 shards of rows",
    ),
    "row and window": (
        ["--gin.reinforce.Run.row_length=64"],
        "reinforce.Run.row_length 64 is shorter than the sampler's window 80",
    ),
    "row and context": (
        ["--gin.pretrain.Run.row_length=512"],
        "pretrain.Run.row_length 512 is longer than the model's context 192",
    ),
    "window and context": (
        ["--gin.evaluate_zero/sampler.Sampler.response_tokens=500"],
        "Sampler.prompt_tokens + response_tokens = 564 is longer than the model's context 192",
    ),
    "minibatches": (["--gin.reinforce.Run.minibatches=5"], "minibatches 5 does not divide the rollout's 64 sequences"),
    "refresh inside a rollout": (
        ["--gin.reinforce.Run.reference_every=6"],
        "reinforce.Run.reference_every 6 is no multiple of minibatches 4: the reference changes between rollouts only",
    ),
    "no step": (["--gin.pretrain.Run.steps=0"], "pretrain.Run.steps is 0; it must be at least 1"),
    "infinite": (["--gin.optim.AdamW.learning_rate=1e400"], "optim.AdamW.learning_rate = inf is no finite number"),
    "experts": (["--gin.config.Moe.experts=-4"], "config.Moe.experts is -4; it must be at least 1"),
    "loss": (["--gin.pretrain.Run.mtp_weight=-1.0"], "pretrain.Run.mtp_weight is -1.0; it must be at least 0"),
    "bias": (["--gin.reinforce.Run.bias_rate=-1.0"], "reinforce.Run.bias_rate is -1.0; it must be at least 0"),
    "warm-up": (["--gin.optim.AdamW.warmup=99"], "AdamW.warmup 99 is longer than the run of 16 steps"),
    "dtype": (["--gin.reinforce.Run.dtype=float16"], "reinforce.Run.dtype = 'float16' is str, wanted 'float32' or"),
    "more questions than there are": (["--gin.evaluate.Run.questions=99"], "questions is 99, the split has 16"),
    "a class for a task": (
        ["--gin.prepare.Run.task=@world.World"],
        "wanted Source; with parentheses, @world.World(), it is an instance",
    ),
    "a class for a reward": (
        ["--gin.reinforce.Run.rewards=(@rules.Accuracy,)"],
        "with parentheses, @rules.Accuracy(), it is an instance",
    ),
    "a class for a template": (
        ["--gin.reinforce.Run.template=@template.Zero"],
        "with parentheses, @template.Zero(), it is an instance",
    ),
    "two rewards of one name": (
        ["--gin.reinforce.Run.rewards=(@rules.Accuracy(), @rules.Accuracy())"],
        "two rewards share a name: ['accuracy', 'accuracy']; give one of them another",
    ),
    "two tokenizers": (
        ["--gin.prepare.Run.tokenizer=base"],
        "prepare.Run wants either vocabulary, to train a tokenizer, or tokenizer, to copy one",
    ),
    "examples without a template": (
        ["--gin.prepare.Run.general=5"],
        "prepare.Run.general is 5: it wants a template, and a task that has examples of its own; World has some",
    ),
    "a tokenizer that is nowhere": (
        ["--gin.prepare.Run.vocabulary=None", "--gin.prepare.Run.tokenizer=nowhere"],
        "data: Run.tokenizer is 'nowhere', but no stage of that name comes before, and there is no folder ",
    ),
    "misspelt stage": (
        ["--gin.reinforce.Run.init=bass"],
        "zero: Run.init is 'bass', but no stage of that name comes before, and there is no folder ",
    ),
    "stages out of order": (
        [stages(data="prepare", zero="reinforce", base="pretrain")],
        "zero: Run.init is 'base', but no stage of that name comes before, and there is no folder ",
    ),
}


@pytest.mark.parametrize("flags, said", BEFORE_ANY_WORK.values(), ids=BEFORE_ANY_WORK)
def test_it_is_said_before_the_first_stage_works(flags, said, mistake, tmp_path):
    line, out = mistake(tmp_path, *([] if "stages" in flags[0] else [stages(**ALL)]), *flags)
    assert said in line and out == "" and list(tmp_path.iterdir()) == []


def test_a_dry_run_knows_the_stages_before(mistake, tmp_path):
    for flags in (
        [stages(**ALL), "--gin.reinforce.Run.init=bass"],
        [stages(**ALL), "--gin.reinforce.Run.data=bass"],
        [stages(**ALL), "--gin.reinforce.Run.data=''"],
        [stages(data="prepare", zero="reinforce", bass="pretrain"), "--gin.reinforce.Run.init=bass"],
    ):
        line, out = mistake(tmp_path, "--dry_run", *flags)
        assert (
            re.search("zero: Run.(init|data) is '(bass)?', but no stage of that name comes before", line) and out == ""
        )
    assert main(["run", str(TINY / "reinforce.gin"), "--dry_run", "--workdir", str(tmp_path), *MESH]) == 0


def test_a_mistake_in_a_later_file_is_said_before_the_first_works(capsys, tmp_path):
    files = [str(TINY / "prepare.gin"), str(TINY / "reinforce.gin")]
    assert main(["run", *files, "--workdir", str(tmp_path), *MESH]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("r1jax: reinforce: Run.data is 'data', but no stage") and out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_stage_alone_wants_what_it_reads(mistake, tmp_path):
    """The stage file of reinforcement learning without its recipe: there is no base."""
    line, _ = mistake(tmp_path, recipe=TINY / "reinforce.gin")
    assert "reinforce: Run.data is 'data', but no stage of that name comes before, and there is no folder " in line
    assert list(tmp_path.iterdir()) == []


WHEN_A_STAGE_BEGINS = {
    "base of another vocabulary": (
        ["--gin.config.Transformer.vocabulary=512"],
        r"checkpoint \S+/base/checkpoints/4/policy: params/\S+ is stored as \(\S+ \S+\), this run wants \(.*512",
    ),
    "base of another shape": (
        ["--gin.config.Moe.shared=2"],
        r"checkpoints/4/policy: params/moe/block/ffn/shared/\S+ is stored as \(1, 32, 32\), this run wants \(1, 64",
    ),
    "tokenizer and vocabulary": (
        ["--gin.config.Transformer.vocabulary=256"],
        r"the tokenizer has 384 pieces, Transformer.vocabulary is 256; raise it to that at least",
    ),
    "prompt and window": (
        ["--gin.sampler.Sampler.prompt_tokens=16"],
        r"the prompt of question \d+ has \d+ tokens, Sampler.prompt_tokens 16; raise it",
    ),
    "data of other settings": (
        ["--gin.world.World.slip=0.5"],
        r"no data set miniature_world of these settings in \S+/data; run the stage that prepares it",
    ),
}


@pytest.mark.parametrize("flags, said", WHEN_A_STAGE_BEGINS.values(), ids=WHEN_A_STAGE_BEGINS)
def test_it_is_said_when_the_stage_begins(flags, said, mistake, begun):
    line, _ = mistake(begun, stages(data="prepare", base="pretrain", zero="reinforce"), *flags)
    assert re.search(said, line), line


def test_a_document_longer_than_a_row(mistake, begun):
    shutil.rmtree(begun / "tiny/base")
    line, _ = mistake(begun, BASE, "--gin.pretrain.Run.row_length=24")
    assert re.search(r"a sequence of \d+ tokens does not fit a row of 24; raise the row length", line)


@pytest.mark.parametrize("stage, file", [("zero", "reinforce"), ("evaluate_base", "evaluate")])
def test_a_base_that_is_not_there(stage, file, mistake, begun):
    shutil.rmtree(begun / "tiny/base/checkpoints")
    line, _ = mistake(begun, stages(data="prepare", base="pretrain", **{stage: file}))
    assert f"no checkpoint in {begun}/tiny/base; run that stage first" in line


def test_a_checkpoint_cut_short(mistake, begun):
    """The data files of the base's last checkpoint, halved (of a single file the half cut off may be dead bytes, which
    nothing points to any more); without that step the one before serves."""
    (begun / "tiny/base/done.json").unlink()
    step = begun / "tiny/base/checkpoints/4"
    for path in step.glob("*/**/d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    flags = [BASE, "--gin.pretrain.Run.steps=6"]
    line, _ = mistake(begun, *flags)
    assert f"checkpoint {step}" in line and "it may have been cut short" in line
    assert "remove that step's folder to go on from the step before it" in line
    shutil.rmtree(step)
    assert main(["run", str(TINY / "recipe.gin"), "--workdir", str(begun), *MESH, *flags]) == 0
    assert [record["step"] for record in read(begun / "tiny/base/metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


HOST, METRICS = "checkpoints/4/host/metadata", "metrics.jsonl"
GOING_ON = {
    "fewer steps than there are": (
        None,
        None,
        r"checkpoints/4 is beyond this run's end at step 3: ask for 4 steps or ",
    ),
    "no metrics": (METRICS, None, r"metrics.jsonl wants one record of each step up to 4, of which there is a checkpoi"),
    "half the metrics": (
        METRICS,
        b'{"step": 1, "loss": 1.0}\n',
        r"metrics.jsonl wants one record of each step up to 4",
    ),
    "a bad line": (METRICS, b'{"step": 1}\n{"ste\n', r"base/metrics.jsonl:2 is no JSON: .*; put the file back as it"),
    "a list in a checkpoint": (
        HOST,
        b"[]",
        r"checkpoints/4 cannot be read, .* \(its host item is no JSON object\): rem",
    ),
    "nothing in a checkpoint": (HOST, b"{}", r"checkpoints/4 does not say which step of which machine it is: remove t"),
}


@pytest.mark.parametrize("file, data, said", GOING_ON.values(), ids=GOING_ON)
def test_a_stage_that_cannot_go_on(file, data, said, mistake, begun):
    (begun / "tiny/base/done.json").unlink()
    if data is not None:
        (begun / "tiny/base" / file).write_bytes(data)
    elif file is not None:
        (begun / "tiny/base" / file).unlink()
    line, _ = mistake(begun, BASE, f"--gin.pretrain.Run.steps={4 if file else 3}")
    assert re.search(said, line), line


def test_gradients_that_are_not_finite(mistake, begun):
    """An absurd learning rate: the third bad gradient in a row is the last one."""
    shutil.rmtree(begun / "tiny/base")
    line, _ = mistake(begun, BASE, "--gin.optim.AdamW.learning_rate=1e30")
    assert re.search(
        r"base: the gradient was not finite in 3 steps in a row, the last one step \d+; lower the learning rate", line
    )
    skipped = [record["skipped_in_a_row"] for record in read(begun / "tiny/base/metrics.jsonl")]
    assert skipped[:4] == [0, 1, 2, 3]
