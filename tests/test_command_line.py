"""The command line: gin files to Runs, every mistake in one line, stops, kills and resumes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy_stage

import r1jax
from r1jax.base.metrics import read
from r1jax.bindings import load
from r1jax.main import main

HEAD = "from __gin__ import dynamic_registration\nimport toy_stage as toy\n"
ADDER = HEAD + "toy.Adder.add = 2.0\n"
STAGE = HEAD + "include 'models/adder.gin'\nSTEPS = 3\ntoy.Run:\n  steps = %STEPS\n  adder = @toy.Adder()\n"
RECIPE = """from __gin__ import dynamic_registration
from r1jax import recipe
recipe.Recipe:
  name = 'pair'
  stages = {'first': '../stages/count.gin', 'second': '../stages/count.gin'}
"""
ALONE = HEAD + "toy.Run.steps = 3\ntoy.Run.adder = @toy.Adder()\n"  # a stage without include


@pytest.fixture(autouse=True)
def configs(tmp_path, monkeypatch):
    """configs/ with a stage and a recipe beside the current directory."""
    for name, text in (("models/adder", ADDER), ("stages/count", STAGE), ("recipes/pair", RECIPE)):
        path = tmp_path / "configs" / f"{name}.gin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


STAGE_FILE, RECIPE_FILE = "../configs/stages/count.gin", "../configs/recipes/pair.gin"


def start(*argv: str, **env: str) -> subprocess.Popen:
    paths = [Path(__file__).parent, Path(__file__).parent.parent, os.environ.get("PYTHONPATH", "")]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))} | env
    command = [sys.executable, "-m", "r1jax.main", *argv]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(process: subprocess.Popen, happened) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def records(stage: str) -> list[dict]:
    return read(Path("runs") / stage / "metrics.jsonl")


# What runs


def test_a_recipe_runs_and_a_second_time_does_nothing(capsys):
    assert main(["run", RECIPE_FILE]) == 0
    out = capsys.readouterr().out
    assert "pair" in out and "steps 3, value 6" in out and f"{Path.cwd()}/runs/pair/second: checkpoints" in out
    assert json.loads(Path("runs/pair/recipe.json").read_text())["stages"] == dict.fromkeys(
        ("first", "second"), "toy_stage"
    )
    before = {path: path.stat().st_mtime_ns for path in Path("runs/pair").rglob("*/*") if path.is_file()}
    assert main(["run", RECIPE_FILE]) == 0
    assert "first: complete already" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in Path("runs/pair").rglob("*/*") if path.is_file()}


def test_a_stage_file_alone_is_a_recipe_of_one(tmp_path):
    assert main(["run", STAGE_FILE, "--workdir", str(tmp_path / "elsewhere")]) == 0
    assert (tmp_path / "elsewhere" / "count" / "count" / "done.json").exists() and not Path("runs").exists()


def test_a_dry_run_touches_no_disk(tmp_path, capsys):
    assert main(["run", RECIPE_FILE, "--dry_run"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("devices: 8 cpu\n\npair/first\n  3 steps of 2.0\n") and "pair/second\n" in out
    assert list(Path().iterdir()) == []


# What is bound


def runs(*argv: str) -> dict[str, toy_stage.Run]:
    """The Runs that a command line makes, by stage."""
    files = [argument for argument in argv if not argument.startswith("--")]
    gin_files = [argument.partition("=")[2] for argument in argv if argument.startswith("--gin_file=")]
    recipes = load(files, gin_files, [argument for argument in argv if argument.startswith("--gin.")])
    return {name: ready.run for stages in recipes.values() for name, ready in stages.items()}


def run(**fields) -> toy_stage.Run:
    return toy_stage.Run(**{"steps": 3, "adder": toy_stage.Adder(add=2.0)} | fields)


@pytest.mark.parametrize(
    "flags, first, second",
    [
        ([], {}, {}),
        (["--gin.toy.Run.steps=5"], {"steps": 5}, {"steps": 5}),
        (["--gin.STEPS=5"], {"steps": 5}, {"steps": 5}),
        (["--gin.first/toy.Run.steps=5"], {"steps": 5}, {}),
        (["--gin.first/STEPS=5", "--gin.second/toy.Run.steps=6"], {"steps": 5}, {"steps": 6}),
        (["--gin.toy.Run.steps=5", "--gin.toy.Run.steps=6"], {"steps": 6}, {"steps": 6}),
        (["--gin.toy.Run.note=/tmp/x y=z"], {"note": "/tmp/x y=z"}, {"note": "/tmp/x y=z"}),
        (["--gin.toy.Run.note='7'"], {"note": "7"}, {"note": "7"}),
        (
            ["--gin.toy.Run.adder=@big/toy.Adder()", "--gin.big/toy.Adder.add=9"],
            *[{"adder": toy_stage.Adder(add=9)}] * 2,
        ),
        (["--gin_file=more.gin", "--gin.second/toy.Run.steps=6"], {"steps": 4}, {"steps": 6}),
    ],
)
def test_overrides(flags, first, second):
    Path("more.gin").write_text(HEAD + "toy.Run.steps = 4\n")
    assert runs(RECIPE_FILE, *flags) == {"first": run(**first), "second": run(**second)}


def test_a_recipe_binds_in_its_stages_and_the_command_line_wins(tmp_path, mistake):
    recipe = tmp_path / "configs/recipes/pair.gin"
    recipe.write_text(RECIPE + "  bindings = ('STEPS=7', 'second/toy.Adder.add=5')\n")
    first, second = (stage.run for stage in load([RECIPE_FILE], [], [])["pair"].values())
    assert (first.steps, first.adder.add, second.steps, second.adder.add) == (7, 2.0, 7, 5)
    first, _ = (stage.run for stage in load([RECIPE_FILE], [], ["--gin.STEPS=4"])["pair"].values())
    assert first.steps == 4
    for binding, said in (
        ("toy.Adder.ad=5", "toy.Adder has no parameter ad"),
        ("RATE=5", "no stage imports or define"),
    ):
        recipe.write_text(RECIPE + f"  bindings = ({binding!r},)\n")
        assert f"pair.gin: recipe.Recipe.bindings: {binding!r}: {said}" in mistake(["run", RECIPE_FILE])
    recipe.write_text(RECIPE + "  bindings = ('STEPS',)\n")
    assert "recipe.Recipe.bindings: 'STEPS' has no value: write NAME=VALUE" in mistake(["run", RECIPE_FILE])


def test_an_override_reaches_a_module_that_only_an_include_imports(tmp_path):
    adder = (ADDER + "toy.Run.adder = @toy.Adder()\n").replace("toy", "plus").replace("plus_stage", "toy_stage")
    (tmp_path / "configs/models/adder.gin").write_text(adder)
    (tmp_path / "configs/stages/count.gin").write_text(STAGE.replace("  adder = @toy.Adder()\n", ""))
    assert runs(STAGE_FILE, "--gin.plus.Adder.add=7.0") == {"count": run(adder=toy_stage.Adder(add=7.0))}


def test_the_operative_config_reloads_to_an_equal_run():
    flags = ['--gin.toy.Run.note=it\'s "so"', "--gin.toy.Run.adder=@big/toy.Adder()", "--gin.big/toy.Adder.add=1e-7"]
    (made,) = runs(STAGE_FILE, *flags).values()
    assert main(["run", STAGE_FILE, *flags]) == 0
    (reloaded,) = runs("runs/count/count/config.gin").values()
    assert reloaded == made == run(note='it\'s "so"', adder=toy_stage.Adder(add=1e-7))


def test_what_differs_from_the_stored_config_is_said(capsys):
    assert main(["run", STAGE_FILE]) == 0
    config = Path("runs/count/count/config.gin").read_text()
    capsys.readouterr()
    assert main(["run", STAGE_FILE, "--gin.toy.Adder.add=3.0", "--gin.toy.Run.note=new"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == (
        "count: Run.adder.add was 2.0, is now 3.0; Run.note was '', is now 'new' "
        "(the stage is complete and stays as it is)"
    )
    assert Path("runs/count/count/config.gin").read_text() == config  # it says what the complete stage ran with


# Mistakes

MISTAKES = {
    "misspelt parameter": ("toy.Run.stepz = 3", "stage.gin:5: toy.Run has no parameter stepz; is steps meant?"),
    "misspelt class": ("toy.Rum.steps = 3", "stage.gin:5: toy.Rum: there is no Rum; is Run meant?"),
    "misspelt module": ("toi.Run.steps = 3", "stage.gin:5: toi is not imported here; is toy meant?"),
    "wrong type": ("toy.Run.steps = 'three'", "stage.gin: toy_stage.Run.steps = 'three' is str, wanted int"),
    "wrong type inside": ("toy.Adder.add = None", "stage.gin: toy_stage.Adder.add = None is NoneType, wanted float"),
    "out of range": ("toy.Run.steps = 0", "stage.gin: toy_stage.Run.steps = 0, wanted 1 or more"),
    "bare word": ("toy.Run.note = word", "stage.gin:5: 'word' is no value; a string wants quotes"),
    "arithmetic": ("toy.Run.steps = 2*3", "stage.gin:5: Expected newline."),
    "open bracket": ("toy.Run.steps = (2,", "multi-line statement"),
    "undefined macro": ("toy.Run.note = %NOTE", "stage.gin: note = %NOTE, a macro that nobody defines"),
    "unread macro": ("RATE = 3", "stage.gin: nothing uses macro RATE"),
    "scope nobody enters": ("eval/toy.Adder.add = 3.0", "stage.gin: nothing uses eval/toy_stage.Adder.add"),
    "nothing builds it": ("from r1jax.base import mesh\nmesh.Mesh.data = 4", "stage.gin: nothing uses mesh.Mesh.data"),
    "required left open": ("toy.Run.note = %gin.REQUIRED", "Run.note set to `%gin.REQUIRED` but not"),
    "missing include": ("include 'models/none.gin'", "stage.gin:5: Unable to open file: models/none.gin."),
    "include in include": (
        "include 'models/deep.gin'",
        "models/deep.gin includes files in turn; includes go one level",
    ),
    "include of itself": ("include 'stages/stage.gin'", "stages/stage.gin includes files in turn; includes go one lev"),
    "includes in a circle": ("include 'models/circle.gin'", "models/circle.gin includes files in turn; includes go"),
    "macros in a circle": (
        "A = %B\nB = %A\ntoy.Run.note = %A",
        "stage.gin: a macro or a reference leads back to itself",
    ),
    "a parameter forgotten": ("toy.Run = 3", "stage.gin:5: a name that is bound wants three parts, MODULE.CLASS.PARAM"),
    "missing module": ("import nothing_there", "stage.gin:5: No module named 'nothing_there'"),
    "two Runs": ("import toy_twin\ntoy_twin.Run.steps = 1", "stage.gin binds toy_stage.Run and toy_twin.Run: a stage"),
}


@pytest.fixture
def mistake(capsys):
    def says(argv: list[str]) -> str:
        before = sorted(Path("..").rglob("*"))
        assert main(argv) == 2
        out, err = capsys.readouterr()
        assert out == "" and re.fullmatch(r"r1jax: [^\n]+\n", err), err
        assert sorted(Path("..").rglob("*")) == before
        return err

    return says


@pytest.mark.parametrize("line, said", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_a_file(line, said, mistake, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "toy_twin", type(sys)("toy_twin"))
    twin = type("Run", (), {"__module__": "toy_twin", "__init__": lambda self, steps: None})
    sys.modules["toy_twin"].__dict__.update(Run=twin, describe=print)
    Path("../configs/models/deep.gin").write_text(HEAD + "include 'models/adder.gin'\n")
    Path("../configs/models/circle.gin").write_text(HEAD + "include 'stages/stage.gin'\n")
    Path("../configs/stages/stage.gin").write_text(ALONE + line + "\n")
    assert said in mistake(["run", "../configs/stages/stage.gin"])


@pytest.mark.parametrize(
    "argv, said",
    [
        ([], "COMMAND"),
        (["rum", "a.gin"], "invalid choice: 'rum' (choose from "),
        (["run"], "FILE"),
        (["run", STAGE_FILE, "--foo"], "unrecognized arguments: --foo"),
        (["run", STAGE_FILE, "--dry"], "unrecognized arguments: --dry"),
        (["run", STAGE_FILE, "--profile", "0"], "--profile 0, wanted 1 or more steps"),
        (["run", "none.gin"], "none.gin: there is no such file"),
        (["run", STAGE_FILE, "--gin_file", "none.gin"], "none.gin: there is no such file"),
        (["run", STAGE_FILE, STAGE_FILE], "count.gin: a recipe named 'count' was given already"),
        (["run", STAGE_FILE, "--gin.toy.Run.steps"], "has no value: write --gin.toy.Run.steps=VALUE"),
        (["run", STAGE_FILE, "--gin.toy.Run.stepz=3"], "--gin.toy.Run.stepz=3: toy.Run has no parameter stepz"),
        (["run", STAGE_FILE, "--gin.toy.Run.steps=ten"], "toy_stage.Run.steps = 'ten' is str, wanted int"),
        (["run", STAGE_FILE, "--gin.toi.Run.steps=3"], "no stage imports or defines 'toi'; is toy meant?"),
        (["run", STAGE_FILE, "--gin.RATE=3"], "--gin.RATE=3: no stage imports or defines 'RATE'"),
        (["run", STAGE_FILE, "--gin.eval/toy.Adder.add=3.0"], "no stage uses eval/toy_stage.Adder.add"),
        (["run", RECIPE_FILE, "--gin.first/eval/toy.Adder.add=3.0"], "no stage uses eval/toy_stage.Adder"),
        (["run", RECIPE_FILE, "--gin.third/toy.Run.steps=3"], "no stage uses third/toy_stage.Run.steps"),
        (["run", RECIPE_FILE, "--gin.recipe.Recipe.stages={}"], "recipe.Recipe.stages is empty"),
        (["run", RECIPE_FILE, "--gin.recipe.Recipe.stages={'a': 'b.gin'}"], "recipes/b.gin: there is no such file"),
        *[
            (["run", RECIPE_FILE, f"--gin.recipe.Recipe.name={name!r}"], f"recipe.Recipe: {name!r} cannot be the name")
            for name in ("", ".", "..", "a/b", "report.html")
        ],
        *[
            (["run", RECIPE_FILE, f"--gin.recipe.Recipe.stages={ {name: 'b.gin'} }"], f"{name!r} cannot be the name of")
            for name in ("..", "recipe.json", "a\nb")
        ],
        (["run", RECIPE_FILE, "--gin.frist/toy.Run.steps=3"], "uses frist/toy_stage.Run.steps; is first meant?"),
        (["run", RECIPE_FILE, "--gin.first=3"], "first is a stage; write first/MODULE.CLASS.PARAMETER=VALUE"),
        (["run", STAGE_FILE, "--gin.toy=3"], "--gin.toy=3: toy is a module; write toy.CLASS.PARAMETER=VALUE"),
        (["run", STAGE_FILE, "--gin.toy.Run=3"], "--gin.toy.Run=3: a name that is bound wants three parts, MODULE.CLA"),
        (["run", "../configs"], "../configs is a folder, wanted a gin file"),
        (["run", STAGE_FILE, "--gin_file", ".."], ".. is a folder, wanted a gin file"),
        (["run", STAGE_FILE, "--gin.toy.Run.note=%NOTE"], "note = %NOTE, a macro that nobody defines"),
    ],
)
def test_a_mistake_on_the_command_line(argv, said, mistake):
    assert said in mistake(argv)


def test_a_flag_that_a_nearer_binding_hides(mistake):
    big = "toy.Run:\n  steps = 3\n  adder = @big/toy.Adder()\nbig/toy.Adder.add = 9.0\n"
    Path("stage.gin").write_text(HEAD + big)
    said = mistake(["run", "stage.gin", "--gin.toy.Adder.add=1.0"])
    assert (
        "--gin.toy.Adder.add=1.0: no stage uses toy_stage.Adder.add, for big/toy_stage.Adder.add is bound nearer to "
        "where it counts: bind that"
    ) in said
    # a later flag may hide an earlier one, as it may replace one
    assert runs("stage.gin", "--gin.big/toy.Adder.add=1.0") == {"stage": run(adder=toy_stage.Adder(add=1.0))}
    Path("stage.gin").write_text(HEAD + big.replace("big/toy.Adder.add", "toy.Adder.add"))
    both = runs("stage.gin", "--gin.toy.Adder.add=1.0", "--gin.big/toy.Adder.add=2.0")
    assert both == {"stage": run(adder=toy_stage.Adder(add=2.0))}


def test_files_that_are_no_config(mistake):
    for text in ("", HEAD + "toy.Adder.add = 1.0\n"):
        Path("stage.gin").write_text(text)
        assert "stage.gin binds no Run" in mistake(["run", "stage.gin"])
    Path("stage.gin").write_bytes(b"\xff\xfe\x00")
    assert "stage.gin is no text file" in mistake(["run", "stage.gin"])
    Path("stage.gin").write_text(HEAD + "toy.Run.note = 'a'\n")
    assert "Run wants a value for 'steps' and 'adder'" in mistake(["run", "stage.gin"])


def test_a_mesh_of_another_size_says_what_fits(tmp_path, capsys):
    Path("stage.gin").write_text(
        ALONE + "from r1jax.base import mesh\ntoy.Run.mesh = @mesh.Mesh()\nmesh.Mesh.tensor = 4\n"
    )
    assert main(["run", "stage.gin"]) == 2
    assert "the mesh (tensor 4) wants 4 devices, there are 8: Mesh.fsdp = 2 would fit" in capsys.readouterr().err


def test_a_workdir_of_another_run_is_left_alone(mistake, capsys):
    Path("runs/count").mkdir(parents=True)
    Path("runs/count/thesis.tex").write_text("all of it")
    assert "holds files of something else (thesis.tex)" in mistake(["run", STAGE_FILE])
    Path("runs/count/thesis.tex").unlink()
    assert main(["run", RECIPE_FILE, "--gin.recipe.Recipe.name=count"]) == 0
    capsys.readouterr()
    said = mistake(["run", STAGE_FILE])
    assert "runs/count holds count (first, second), this is count (count): choose another --workdir" in said


@pytest.mark.parametrize(
    "file, data, said",
    [
        ("recipe.json", "", "is no JSON (Expecting value: line 1 column 1 (char 0)): put it back as it was, or choose"),
        ("recipe.json", "[]", "holds list in JSON, wanted an object: put it back as it was, or choose another --work"),
        ("recipe.json", "{}", "does not say of which recipe and stages it is: put it back as it was, or choose anoth"),
        ("times.json", '{"count": 1', "is no JSON ("),
        ("count/done.json", "[]", "holds list in JSON, wanted an object: mend it, or move it away"),
        ("count/results.json", "", "is no JSON ("),
    ],
)
def test_a_broken_file_of_a_run_is_said_before_any_work(file, data, said, mistake, capsys):
    assert main(["run", STAGE_FILE]) == 0
    path = Path.cwd() / "runs/count" / file
    path.write_text(data)
    capsys.readouterr()
    assert f"r1jax: {path} {said}" in mistake(["run", STAGE_FILE])


@pytest.mark.parametrize(
    "workdir, blocked, said",
    [
        ("file/runs", "file", "file/runs"),
        ("/proc/nowhere", None, "/proc/nowhere: No such file or directory; mend that, or choose another path"),
        ("n" * 300, None, "n: File name too long; "),
        ("runs", "runs/count", "runs/count: "),
        ("runs", "runs/count/recipe.json/", "runs/count/recipe.json: Is a directory; "),
        ("runs", "runs/count/count", "runs/count/count"),
        ("runs", "runs/count/count/config.gin/", "runs/count/count/config.gin: Is a directory; "),
        ("runs", "runs/count/count/checkpoints", "runs/count/count/checkpoints: Not a directory; "),
        ("runs", "runs/count/report.html/", "runs/count/report.html: Is a directory; "),
    ],
)
def test_a_path_that_cannot_be_written_is_one_line(workdir, blocked, said, capsys):
    """blocked: where something else lies, a file or, with a slash at its end, a folder; that of a run which began."""
    if blocked:
        path = Path(blocked)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if blocked.endswith("/") else path.write_text("mine")
        if path.parent != Path() and path.name not in ("count", "recipe.json") or blocked == "runs/count/count":
            Path("runs/count/recipe.json").write_text('{"recipe": "count", "stages": {"count": "toy_stage"}}')
    assert main(["run", STAGE_FILE, "--workdir", workdir]) == 2
    err = capsys.readouterr().err
    assert re.fullmatch(r"r1jax: [^\n]+\n", err) and said in err, err
    assert not blocked or blocked.endswith("/") or Path(blocked).read_text() == "mine"


def test_a_bug_of_ours_is_not_taken_for_a_mistake(tmp_path):
    Path("stage.gin").write_text(ALONE + "import broken_module\n")
    Path("broken_module.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        main(["run", "stage.gin"])
    ours = os.path.join(os.path.dirname(r1jax.__file__), "nothing.txt")
    Path("broken_module.py").write_text(f"open({ours!r})\n")
    with pytest.raises(FileNotFoundError):
        main(["run", "stage.gin"])


# Stopping and going on

SLOW = ["run", STAGE_FILE, "--gin.toy.Run.steps=20", "--gin.toy.Run.seconds=0.05"]


def whole() -> list[dict]:
    return [{"step": step, "value": 2.0 * step} for step in range(1, 21)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_saves_and_the_same_command_goes_on(number):
    process = start(*SLOW)
    until(process, lambda: len(records("count/count")) >= 3)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == 0 and err == "", err
    step = len(records("count/count"))
    assert f"stopped at count, step {step}; the same command goes on from there" in out and step < 20
    assert not Path("runs/count/count/done.json").exists()
    assert main(SLOW[:3] + ["--gin.toy.Run.seconds=0.0"]) == 0
    assert records("count/count") == whole()


def test_a_stop_before_the_loop_is_quiet():
    process = start(*SLOW)
    until(process, Path("runs/count/recipe.json").exists)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 0 and err == "" and "the same command goes on from there" in out


def test_kill_and_go_on():
    for _ in range(2):
        process = start(*SLOW)
        had = len(records("count/count"))
        until(process, lambda had=had: len(records("count/count")) >= had + 2)
        process.kill()
        process.communicate()
    assert main(SLOW) == 0
    assert records("count/count") == whole()


def test_two_processes_make_one_run(tmp_path):
    """Processes of two devices each join by the environment; only process 0 writes and speaks."""
    Path("stage.gin").write_text(
        ALONE + "from r1jax.base import mesh\ntoy.Run.mesh = @mesh.Mesh()\n"
        "mesh.Mesh.fsdp = 4\nmesh.Mesh.processes = 'auto'\n"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_COORDINATOR_ADDRESS": address}
    processes = [start("run", "stage.gin", **env, JAX_NUM_PROCESSES="2", JAX_PROCESS_ID=str(i)) for i in range(2)]
    (first, error_0), (second, error_1) = (process.communicate(timeout=90) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], error_0 + error_1
    assert "steps 3, value 3" in first and "stage" not in second
    assert records("stage/stage") == [{"step": step, "value": float(step)} for step in (1, 2, 3)]


def test_auto_without_a_cluster_is_one_line(capsys, monkeypatch):
    Path("stage.gin").write_text(
        ALONE + "from r1jax.base import mesh\ntoy.Run.mesh = @mesh.Mesh()\nmesh.Mesh.processes = 'auto'\n"
    )
    out, err = start("run", "stage.gin").communicate()
    assert out == "" and err.startswith("r1jax: Mesh.processes = 'auto', but no cluster was recognised"), err
    assert err.count("\n") == 1


def test_a_reader_that_has_read_enough_is_no_crash():
    process = start("run", RECIPE_FILE, "--dry_run")
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 1


def test_help_is_quick():
    code = "import sys; from r1jax.main import main\n" + (
        "try: main(['--help'])\nexcept SystemExit: assert 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
