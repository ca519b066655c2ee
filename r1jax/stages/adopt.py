"""Takes over a published model: a Hugging Face folder becomes a policy that `init` of other stages names.

The folder holds config.json, *.safetensors and tokenizer.json, as DeepSeek, Qwen and Llama are published. Its tokenizer
comes along, so that `prepare.Run.tokenizer` (or `data`, of a task that writes nothing) can name this stage.
"""

import dataclasses
import os

import jax
from etils import epath

from r1jax.base.checkpoint import Store
from r1jax.base.fields import check, require
from r1jax.base.files import read_json
from r1jax.base.mesh import Mesh, is_main
from r1jax.base.place import Place
from r1jax.data import tokenizer
from r1jax.model import huggingface, lm
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout
from r1jax.model.tensors import Tensors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """published: the folder, on a disk that all processes see. model: what it must be. eos: the token that ends a
    response; None: the one that tokenizer_config.json names."""

    published: str
    model: Transformer
    mesh: Mesh
    eos: str | None = None

    def __post_init__(self):
        check(self)


def describe(cfg: Run, place: Place) -> list[str]:
    Layout(cfg.mesh).check(cfg.model)
    with jax.sharding.use_abstract_mesh(cfg.mesh.abstract()):
        count = lm.count(lm.shapes(cfg.model, Layout(cfg.mesh)))
    if os.path.exists(cfg.published):
        _check_config(cfg)
    there = "" if os.path.exists(cfg.published) else ", which is not there"
    return [f"{count:,} parameters on {cfg.mesh}, from {cfg.published}{there}"]


def run(cfg: Run, place: Place) -> None:
    require(os.path.isdir(cfg.published), f"adopt.Run.published is {cfg.published}; there is no such folder")
    _check_config(cfg)
    tensors = Tensors(cfg.published)
    place.record()
    if is_main():
        tokenizer.copy(epath.Path(cfg.published), place.folder, cfg.eos)
        tokenizer.Tokenizer(place.folder).check(cfg.model.vocabulary)
    store = Store(place.folder / "checkpoints")
    with jax.set_mesh(cfg.mesh.make()):
        policy = huggingface.load(tensors, cfg.model, Layout(cfg.mesh))
        if store.latest() is None:
            store.save(0, {"policy": policy}, {"step": 0})
        store.wait()
    place.finish({"parameters": lm.count(policy)})


def _check_config(cfg: Run) -> None:
    path = os.path.join(cfg.published, "config.json")
    require(os.path.exists(path), f"no config.json in {cfg.published}; it must be the folder of one published model")
    found = huggingface.differences(read_json(path, remedy=tokenizer.DAMAGED), cfg.model)
    require(not found, f"{path} is of another model than adopt.Run.model: {'; '.join(found)}")
