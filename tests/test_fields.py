"""Types and ranges of config fields."""

import dataclasses
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import pytest

from r1jax.base.fields import UserError, above, at_least, between, check, not_empty, require
from r1jax.base.mesh import Mesh
from r1jax.data.world import World
from r1jax.learn.optim import AdamW
from r1jax.model.config import Gqa, Llama3Scaling, Mla, Moe, Rope, Transformer, Yarn
from r1jax.rollout.sampler import Sampler


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
        ("rate", float("inf"), "float"),
        ("rate", float("nan"), "float"),
        ("pair", ("a", float("-inf")), "tuple[str, float]"),
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
    above(0, Config(), "steps", "limit")
    between(0, 1, Config(), "steps", "rate", "limit")
    with pytest.raises(UserError, match=r"^test_fields.Config.rate is 0; it must be above 0$"):
        above(0, Config(rate=0), "rate")
    for rate in (-0.5, 1.5):
        with pytest.raises(UserError, match=rf"^test_fields.Config.rate is {rate}; it must be between 0 and 1$"):
            between(0, 1, Config(rate=rate), "steps", "rate")
    with pytest.raises(UserError, match=r"^test_fields.Config.steps is 0; it must be at least 1$"):
        at_least(1, Config(steps=0), "limit", "steps")
    with pytest.raises(UserError, match=r"^test_fields.Config.sizes is empty; it needs one at least$"):
        not_empty(Config(), "sizes")
    with pytest.raises(UserError, match=r"^test_fields.Config.sizes is empty; choose one$"):
        not_empty(Config(), "sizes", "choose one")


MLA = Mla(heads=2, query_rank=4, kv_rank=4, nope_dim=4, rope_dim=2, value_dim=4)
GQA = Gqa(heads=4, kv_heads=2, head_dim=4)
MOE = Moe(experts=4, active=2, shared=1, width=8)
MODEL = Transformer(vocabulary=9, width=8, layers=2, ffn_width=8, context=16, attention=MLA, rope=Rope(), moe=MOE)
ADAMW = AdamW(learning_rate=1e-3)
SAMPLER = Sampler(samples=2, prompt_tokens=4, response_tokens=4, slots=2)
RANGES = [
    (MLA, "at least 1", {name: (0, -2) for name in ("heads", "query_rank", "kv_rank", "nope_dim", "value_dim")}),
    (MLA, "at least 2", {"rope_dim": (0, -2)}),
    (GQA, "at least 1", {"heads": (0, -4), "kv_heads": (0, -2)}),
    (GQA, "at least 2", {"head_dim": (0, -2)}),
    (MOE, "at least 1", {name: (0, -4) for name in ("experts", "active", "width", "groups", "top_groups")}),
    (MOE, "at least 0", {"shared": (-1,), "dense_layers": (-1,), "balance_loss": (-1.0,)}),
    (MODEL, "at least 1", {name: (0, -8) for name in ("vocabulary", "width", "layers", "ffn_width", "context")}),
    (MODEL, "at least 0", {"init_std": (-1.0,)}),
    (Rope(), "above 0", {"theta": (0.0, -1.0)}),
    (Yarn(factor=2.0, original_context=8), "at least 1", {"factor": (0.0,), "original_context": (0,)}),
    (Llama3Scaling(factor=2.0, original_context=8), "above 1.0", {"high_frequency": (1.0,)}),
    (ADAMW, "above 0", {"learning_rate": (0.0, -1.0), "clip": (0.0,), "eps": (0.0, -1e-8)}),
    (ADAMW, "at least 0", {"warmup": (-3,), "weight_decay": (-1.0,)}),
    (ADAMW, "between 0 and 1", {"b1": (1.5, -1.0), "b2": (1.5, -1.0), "final": (7.0, -0.1)}),
    (SAMPLER, "at least 1", {name: (0, -1) for name in ("samples", "prompt_tokens", "slots", "top_k")}),
    (SAMPLER, "at least 0", {"temperature": (-0.1,)}),
    (SAMPLER, "above 0", {"top_p": (0.0,)}),
    (SAMPLER, "between 0 and 1", {"top_p": (1.1,)}),
    (Mesh(), "at least 1", {"fsdp": (0, -1)}),
    (World(), "at least 0", {"rl": (-1,), "seed": (-1,)}),
    (World(), "at least 1", {"stride": (0,)}),
    (World(), "between 0 and 1", {"slip": (2.0, -0.1), "careful_mixed": (1.5,)}),
]


@pytest.mark.parametrize("config, wanted, fields", RANGES, ids=lambda value: type(value).__name__)
def test_a_number_out_of_range_is_named(config, wanted, fields):
    for name, value in ((name, value) for name, values in fields.items() for value in values):
        with pytest.raises(UserError) as error:
            dataclasses.replace(config, **{name: value})
        module = type(config).__module__.rpartition(".")[2]
        assert str(error.value) == f"{module}.{type(config).__name__}.{name} is {value}; it must be {wanted}"


def test_ranges_that_hang_together():
    with pytest.raises(UserError, match="Moe.top_groups 2 is more than Moe.groups 1"):
        dataclasses.replace(MOE, top_groups=2)
    with pytest.raises(UserError, match="AdamW.b1 and b2 must be below 1"):
        dataclasses.replace(ADAMW, b1=1.0)


def test_require():
    require(True, "fine")
    with pytest.raises(UserError, match="^not fine$"):
        require(False, "not fine")
