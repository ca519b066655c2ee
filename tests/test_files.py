"""Files that a run writes and reads again."""

import pytest

from r1jax.base.fields import UserError
from r1jax.base.files import read_json


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
