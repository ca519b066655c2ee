"""Types and ranges of config fields."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import pytest

from r1jax.base.fields import UserError, at_least, check, not_empty, require


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 1


@runtime_checkable
class Asks(Protocol):
    width: int


@dataclass(frozen=True, kw_only=True)
class Config:
    steps: int = 1
    rate: float = 0.1
    name: str = "a"
    on: bool = True
    sizes: tuple[int, ...] = ()
    pair: tuple[str, float] = ("a", 1.0)
    limit: int | None = None
    clip: Literal["low", "high", 2] = "low"
    inner: Inner = Inner()
    stages: dict[str, str] | None = None
    asked: tuple[Asks, ...] = ()

    def __post_init__(self):
        check(self)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"rate": 3},
        {"sizes": (1, 2, 3)},
        {"pair": ("b", 2)},
        {"limit": 7},
        {"clip": 2},
        {"inner": Inner(width=2)},
        {"stages": {"a": "b"}},
        {"asked": (Inner(),)},
    ],
)
def test_right_types_pass(fields):
    Config(**fields)


@pytest.mark.parametrize(
    "field, value, wanted",
    [
        ("steps", "three", "int"),
        ("steps", 3.0, "int"),
        ("steps", True, "int"),
        ("rate", "0.1", "float"),
        ("rate", False, "float"),
        ("name", None, "str"),
        ("on", 1, "bool"),
        ("sizes", [1, 2], "tuple[int, ...]"),
        ("sizes", (1, "2"), "tuple[int, ...]"),
        ("pair", ("a", 1.0, 2.0), "tuple[str, float]"),
        ("limit", "none", "int | None"),
        ("clip", "middle", "'low' or 'high' or 2"),
        ("clip", 2.0, "'low' or 'high' or 2"),
        ("stages", {"a": 1}, "dict[str, str] | None"),
    ],
)
def test_a_wrong_type_is_named(field, value, wanted):
    with pytest.raises(UserError) as error:
        Config(**{field: value})
    said = str(error.value)
    assert said.startswith(f"test_fields.Config.{field} = {value!r} is ") and said.endswith(f"wanted {wanted}")


@pytest.mark.parametrize("fields", [{"inner": Inner}, {"asked": (Inner(), Inner)}])
def test_a_class_for_an_instance_gets_advice(fields):
    with pytest.raises(UserError, match=r", wanted .*; with parentheses, @test_fields.Inner\(\), it is an instance$"):
        Config(**fields)


def test_numbers_and_tuples_have_a_least():
    at_least(1, Config(), "steps", "limit")
    not_empty(Config(sizes=(1,)), "sizes")
    with pytest.raises(UserError, match=r"^test_fields.Config.steps is 0; it must be at least 1$"):
        at_least(1, Config(steps=0), "limit", "steps")
    with pytest.raises(UserError, match=r"^test_fields.Config.sizes is empty; it needs one at least$"):
        not_empty(Config(), "sizes")
    with pytest.raises(UserError, match=r"^test_fields.Config.sizes is empty; choose one$"):
        not_empty(Config(), "sizes", "choose one")


def test_require():
    require(True, "fine")
    with pytest.raises(UserError, match="^not fine$"):
        require(False, "not fine")
