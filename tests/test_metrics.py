"""The journal: cutting back, torn lines, and what a reader gets."""

import json

import numpy as np
import pytest

from r1jax.base.fields import UserError
from r1jax.base.metrics import Journal, read


def write(folder, steps):
    journal = Journal(folder)
    for step in steps:
        journal.write(step, {"loss": np.float32(1 / step), "tokens": 10 * step})
        journal.samples(step, [{"text": "七"}, {"text": "a\nb"}])
    journal.close()


def test_cut_then_go_on_equals_never_stopped(tmp_path):
    write(tmp_path / "whole", range(1, 9))
    write(tmp_path / "broken", range(1, 7))
    for name in ("metrics.jsonl", "samples.jsonl"):
        with open(tmp_path / "broken" / name, "ab") as file:
            file.write('{"step": 7, "text": "七'.encode()[:-1])  # killed in the middle of a line, even of a letter
    Journal(tmp_path / "broken").cut(4)
    write(tmp_path / "broken", range(5, 9))
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_read_gives_what_was_written_and_drops_a_torn_line(tmp_path):
    write(tmp_path, [1, 2])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3')
    records = read(tmp_path / "metrics.jsonl")
    assert records == [{"step": 1, "loss": 1.0, "tokens": 10}, {"step": 2, "loss": 0.5, "tokens": 20}]
    assert read(tmp_path / "samples.jsonl")[-1] == {"step": 2, "text": "a\nb"}
    assert read(tmp_path / "nothing.jsonl") == []


def test_cut_to_nothing(tmp_path):
    write(tmp_path, [1, 2])
    Journal(tmp_path).cut(None)
    assert read(tmp_path / "metrics.jsonl") == read(tmp_path / "samples.jsonl") == []
    Journal(tmp_path / "new").cut(3)
    assert not (tmp_path / "new").exists()


def test_a_cut_never_leaves_half_a_file(tmp_path):
    """A file that somebody opened before the cut is still the old one, whole."""
    write(tmp_path, range(1, 50))
    with open(tmp_path / "metrics.jsonl") as old:
        Journal(tmp_path).cut(3)
        assert len(old.readlines()) == 49
    assert [json.loads(line)["step"] for line in open(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "samples.jsonl", "tensorboard"]


@pytest.mark.parametrize(
    "line, said",
    [
        (b'{"step": 1\n', ":2 is no JSON: Expecting"),
        (b"\xff\n", ":2 is no JSON: 'utf-8' codec can't decode"),
        (b"[1]\n", ":2 is no JSON object; "),
        (b'{"step": "one"}\n', ":2 has no step; "),
        (b"{}\n", ":2 has no step; "),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_cut(line, said, tmp_path):
    write(tmp_path, [1])
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + line)
    before = path.read_bytes()
    for read_it in (lambda: Journal(tmp_path).cut(1), lambda: Journal(tmp_path).check(1)):
        with pytest.raises(UserError) as error:
            read_it()
        assert f"{path}{said}" in str(error.value) and "to begin the stage again" in str(error.value)
    assert path.read_bytes() == before
    if "step" not in said:
        with pytest.raises(UserError):
            read(path)


def test_what_goes_on_wants_a_record_of_each_step(tmp_path):
    write(tmp_path, [1, 2, 3])
    for step in (1, 2, 3):
        Journal(tmp_path).check(step)
    for steps in ([1, 2], [2, 3], []):
        (tmp_path / "metrics.jsonl").unlink(missing_ok=True)
        write(tmp_path, steps)
        with pytest.raises(UserError, match="metrics.jsonl wants one record of each step up to 3, of which there is a"):
            Journal(tmp_path).check(3)
