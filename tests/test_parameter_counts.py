"""The models in configs/models have as many parameters as their publishers say.

Exact figures are counts of the numbers in the published safetensors files ("total_size" / 2 of the index, or the
hub's table by data type); `besides` are the numbers in those files that are no parameters of ours. Where a publisher
prints a rounded figure only, the count must round to it.
"""

import importlib.util  # noqa: F401  gin uses it without importing it
from pathlib import Path

import gin
import jax
import pytest

from r1jax.base.mesh import Mesh
from r1jax.model import config, lm
from r1jax.model.layout import Layout

MODELS = Path(__file__).parents[1] / "configs" / "models"

EXACT = {
    "deepseek_v2_lite": 15_706_484_224,
    "llama3_1_8b": 8_030_261_248,
    "llama3_3_70b": 70_553_706_496,
    "qwen2_5_0_5b": 494_032_768,
    "qwen2_5_1_5b": 1_543_714_304,
    "qwen2_5_7b": 7_615_616_512,
    "qwen2_5_14b": 14_770_033_664,
    "qwen2_5_32b": 32_763_876_352,
    "qwen2_5_math_1_5b": 1_543_714_304,
    "qwen2_5_math_7b": 7_615_616_512,
    "qwen3_8b": 8_190_735_360,
}


def load(name: str) -> config.Transformer:
    gin.parse_config_file(str(MODELS / f"{name}.gin"))
    return gin.get_configurable(config.Transformer)()


def count(cfg: config.Transformer) -> dict[str, int]:
    """Numbers in each top-level entry of the parameters, and under 'router' those of the router's biases."""
    with jax.sharding.use_abstract_mesh(Mesh().abstract()):
        policy = lm.shapes(cfg, Layout(Mesh()))
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    return {**{name: size(tree) for name, tree in policy.params.items()}, "router": size(policy.router)}


def total(counts: dict[str, int]) -> int:
    return sum(n for name, n in counts.items() if name != "router")


def mtp(counts: dict[str, int]) -> int:
    return sum(n for name, n in counts.items() if name.startswith("mtp"))


@pytest.mark.parametrize("name", sorted(EXACT))
def test_exact(name):
    assert total(count(load(name))) == EXACT[name]


def test_every_published_model_is_counted():
    published = {path.stem for path in MODELS.glob("*.gin") if not path.stem.startswith("miniature")}
    assert published == {*EXACT, "deepseek_v3", "moonlight_16b_a3b"}


def test_deepseek_v3():
    cfg = load("deepseek_v3")
    counts = count(cfg)
    main = total(counts) - mtp(counts)
    assert round(main / 1e9) == 671
    assert main == 671_026_404_352
    # README_WEIGHTS.md prints 11.5B for what is the prediction module's own; what the files hold is 11.61B.
    assert 11.5e9 < mtp(counts) < 11.7e9
    # The files, by data type: BF16 and FP8 are weights, with the prediction module's copies of embedding and head;
    # FP32 are the router's biases and the 41,540,496 scales of FP8 blocks.
    copies = counts["embed"] + counts["head"]
    assert total(counts) + copies == 3_918_786_560 + 680_571_043_840
    assert counts["router"] == 41_555_600 - 41_540_496


def test_moonlight():
    counts = count(load("moonlight_16b_a3b"))
    besides = 27 * 64  # what remains; the files hold rotary frequencies layer by layer
    assert total(counts) + counts["router"] == 15_960_111_936 - besides
    # The README's figure, without embedding and head.
    assert round((total(counts) - counts["embed"] - counts["head"]) / 1e7) == 1529
