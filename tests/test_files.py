"""Files that a run writes and reads again."""

from pathlib import Path

import pytest

from r1jax.base.fields import UserError
from r1jax.base.files import absolute, read_json
from r1jax.main import main


def test_json_comes_back(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": "七"}')
    assert read_json(path) == {"a": "七"}
    path.write_text("[1]")
    assert read_json(path, list) == [1]


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "is no JSON (Expecting value: line 1 column 1 (char 0)): mend it, or move it away"),
        (b'{"a": ', "is no JSON (Expecting value: line 1 column 7"),
        (b"\xff\xfe", "is no JSON ('utf-8' codec can't decode byte 0xff"),
        (b"[]", "holds list in JSON, wanted an object: mend it, or move it away"),
        (b"null", "holds NoneType in JSON, wanted an object"),
    ],
)
def test_what_is_no_json_object_is_one_line(data, said, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path} {said}")


def test_paths_are_absolute_and_those_of_a_store_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert [str(absolute(path)) for path in ("a/../b", "~/b", "/c")] == [f"{tmp_path}/b", "/home/me/b", "/c"]
    monkeypatch.setattr("fsspec.get_filesystem_class", lambda name: None)  # as if its package were there
    assert str(absolute("gs://bucket/runs")) == "gs://bucket/runs"


@pytest.mark.parametrize(
    "path, said",
    [
        ("gs://bucket/runs", "gs://bucket/runs: Please install gcsfs to access Google Storage with pip, or mount the "),
        ("s3://bucket/runs", "s3://bucket/runs: Install s3fs to access S3 with pip, or mount the store and give its "),
        ("foo://bar", "foo://bar: no such kind of store is known; give a folder, or gs://, s3:// or az://"),
    ],
)
def test_a_store_that_cannot_be_reached_is_one_line(path, said, tmp_path, monkeypatch, capsys):
    """The packages of the stores are not among those that are pinned."""
    monkeypatch.chdir(tmp_path)
    stage = Path(__file__).parent / "tiny/prepare.gin"
    for argv in (["run", str(stage), "--dry_run", "--workdir", path], ["run", path], ["report", path]):
        assert main(argv) == 2
        assert capsys.readouterr().err.startswith(f"r1jax: {said}")
    assert list(tmp_path.iterdir()) == []
