"""Published models become policies: the same tensors on every mesh, logits as their own library gives them, a recipe
that begins with one. What a folder may have wrong is named."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy as safetensors
import small
import tokenizers
from etils import epath

from r1jax import policies
from r1jax.base.fields import UserError
from r1jax.base.mesh import Mesh
from r1jax.base.metrics import read
from r1jax.base.place import Place
from r1jax.data import examples
from r1jax.main import main
from r1jax.model import config, huggingface, lm
from r1jax.model.layout import Layout
from r1jax.model.tensors import Tensors
from r1jax.stages import adopt

QWEN = config.Transformer(
    vocabulary=400,
    width=32,
    layers=2,
    ffn_width=64,
    context=256,
    attention=config.Gqa(heads=4, kv_heads=2, head_dim=8, bias=True),
    rope=config.Rope(theta=1e6),
    tied=True,
)
THEIRS = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}


def publish(folder: Path, tensors: dict[str, np.ndarray], said: dict = THEIRS) -> Path:
    """A folder as models are published: two files of tensors, config.json, a byte-level tokenizer."""
    folder.mkdir()
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2])):
        safetensors.save_file({name: tensors[name] for name in part}, folder / f"model-{number}.safetensors")
    (folder / "config.json").write_text(json.dumps(said))
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    found = tokenizers.Tokenizer(tokenizers.models.BPE({letter: i for i, letter in enumerate(sorted(letters))}, []))
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = tokenizers.decoders.ByteLevel()
    found.add_special_tokens(["<end>"])
    found.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    return folder


def tensors_of(cfg: config.Transformer) -> dict[str, np.ndarray]:
    with small.on(Mesh()):
        policy = small.policy(cfg, small.ONE)
        return huggingface.to_huggingface(policy.params, policy.router, cfg)


@pytest.mark.parametrize(
    "cfg, mesh",
    [
        (small.MOE, Mesh()),
        (small.MOE, Mesh(fsdp=2, expert=2, tensor=2)),
        (small.MOE, Mesh(data=2, expert=4)),
        (small.DENSE, Mesh(fsdp=4, context=2)),
    ],
    ids=["one device", "fsdp, expert, tensor", "data, expert", "fsdp, context"],
)
def test_a_model_is_the_same_on_every_mesh(cfg, mesh, tmp_path):
    tensors = tensors_of(cfg)
    found = Tensors(publish(tmp_path / "model", tensors))
    assert set(found) == set(tensors) and len(found) == len(tensors)
    params, router = huggingface.from_huggingface(tensors, cfg)
    with small.on(mesh):
        policy = huggingface.load(found, cfg, Layout(mesh))
        like = lm.shapes(cfg, Layout(mesh))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(policy.params), params)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(policy.router), router or like.router)
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.sharding.spec, b.sharding.spec), policy, like)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float8_e4m3fn"])
def test_every_number_comes_out_of_a_file_as_it_was(dtype, tmp_path):
    """Written by hand where the library knows no such type in numpy."""
    values = np.arange(-6, 6, dtype=np.float32).reshape(3, 4).astype(jnp.dtype(dtype))
    name = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3"}[dtype]
    one = {"dtype": name, "shape": [], "data_offsets": [values.nbytes, values.nbytes + values.itemsize]}
    header = {"a": {"dtype": name, "shape": [3, 4], "data_offsets": [0, values.nbytes]}, "one": one, "__metadata__": {}}
    text = json.dumps(header).encode()
    data = values.tobytes() + values[0, 0].tobytes()
    (tmp_path / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    found = Tensors(tmp_path)
    assert found["a"].dtype == values.dtype and found["one"].shape == () and set(found) == {"a", "one"}
    np.testing.assert_array_equal(found["a"].astype(np.float32), np.arange(-6, 6).reshape(3, 4))
    if dtype != "float8_e4m3fn":
        np.testing.assert_array_equal(found["a"], safetensors.load_file(tmp_path / "x.safetensors")["a"])


def test_files_that_are_damaged(tmp_path):
    with pytest.raises(UserError, match=r"no \*.safetensors in"):
        Tensors(tmp_path)
    path = tmp_path / "x.safetensors"
    safetensors.save_file({"a": np.ones(1000, np.float32)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match="x.safetensors was cut short; download it again"):
        Tensors(tmp_path)
    header = lambda text: len(text).to_bytes(8, "little") + text  # noqa: E731
    for half in (whole[:20], b"<html>Not found</html>", b"", header(b"[1]"), header(b'{"a": 1}')):
        path.write_bytes(half)
        with pytest.raises(UserError, match="x.safetensors is no file of safetensors, or was cut short"):
            Tensors(tmp_path)


def test_a_config_of_another_model_is_named(tmp_path):
    published = publish(tmp_path / "model", tensors_of(QWEN))
    run = adopt.Run(published=str(published), model=QWEN, mesh=Mesh())
    assert "from" in adopt.describe(run, Place(tmp_path, "base"))[0]
    wrong = dataclasses.replace(run, model=dataclasses.replace(QWEN, rope=config.Rope(theta=1e4), norm_eps=1e-5))
    said = "rms_norm_eps is 1e-06, the model's 1e-05; rope_theta is 1000000.0, the model's 10000.0"
    with pytest.raises(UserError, match=f"config.json is of another model than adopt.Run.model: {said}"):
        adopt.describe(wrong, Place(tmp_path, "base"))
    (published / "config.json").write_text("<html>")
    with pytest.raises(UserError, match="config.json is no JSON .*: copy or download it again"):
        adopt.describe(run, Place(tmp_path, "base"))
    (published / "config.json").unlink()
    with pytest.raises(UserError, match="no config.json in"):
        adopt.run(run, Place(tmp_path, "base"))
    nowhere = dataclasses.replace(run, published=str(tmp_path / "nowhere"))
    assert adopt.describe(nowhere, Place(tmp_path, "base"))[0].endswith("nowhere, which is not there")
    with pytest.raises(UserError, match="nowhere; there is no such folder"):
        adopt.run(nowhere, Place(tmp_path, "base"))


YARN = {"factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1}


@pytest.mark.parametrize(
    "rope, ours, same",
    [
        ({"rope_theta": 1e6}, config.Rope(theta=1e6), True),
        ({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, config.Rope(theta=1e6), True),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}, config.Rope(theta=1e6), False),
        (
            {"rope_theta": 1e4, "rope_scaling": YARN | {"type": "yarn", "mscale": 1.0, "mscale_all_dim": 1.0}},
            config.Rope(scaling=config.Yarn(factor=4.0, original_context=32)),
            True,
        ),
        (
            {"rope_theta": 1e4, "rope_scaling": YARN | {"type": "yarn", "mscale": 0.707}},
            config.Rope(scaling=config.Yarn(factor=4.0, original_context=32)),
            False,
        ),
        ({"rope_theta": 1e4, "rope_scaling": YARN | {"type": "yarn"}}, config.Rope(), False),
        ({"rope_theta": 1e4}, config.Rope(scaling=config.Yarn(factor=4.0, original_context=32)), False),
    ],
)
def test_rotary_positions_are_compared_in_both_spellings(rope, ours, same):
    said = {key: value for key, value in THEIRS.items() if key != "rope_theta"} | rope
    assert (huggingface.differences(said, dataclasses.replace(QWEN, rope=ours)) == []) == same


RECIPE = """from __gin__ import dynamic_registration
from r1jax import recipe
recipe.Recipe.name = 'real'
recipe.Recipe.stages = {{'base': '{0}/adopt.gin', 'data': '{0}/prepare.gin', 'zero': '{0}/zero.gin',
                         'evaluate': '{0}/evaluate.gin'}}
"""
MODEL = """
include 'task.gin'
from r1jax.base import mesh
from r1jax.data import jsonlines
from r1jax.data import template
from r1jax.model import config
from r1jax.reward import mathematics
from r1jax.rollout import sampler
config.Transformer:
  vocabulary = 400
  width = 32
  layers = 2
  ffn_width = 64
  context = 256
  attention = @config.Gqa()
  rope = @config.Rope()
  tied = True
  unroll = True
config.Gqa:
  heads = 4
  kv_heads = 2
  head_dim = 8
  bias = True
config.Rope.theta = 1e6
mesh.Mesh.fsdp = 8
"""
SAMPLES = """
STAGE.Run:
  data = 'data'
  task = @jsonlines.JsonLines()
  template = @template.Zero()
  model = @config.Transformer()
  mesh = @mesh.Mesh()
  sampler = @sampler.Sampler()
template.Zero.text = '{question}='
sampler.Sampler:
  samples = 2
  prompt_tokens = 16
  response_tokens = 8
  slots = 8
"""
FILES = {
    "task": "from r1jax.data import jsonlines\njsonlines.JsonLines.rl = ('rl.jsonl',)\n"
    "jsonlines.JsonLines.test = ('test.jsonl',)\njsonlines.JsonLines.replies = ('replies.jsonl',)\n",
    "adopt": MODEL.replace("include 'task.gin'", "")
    + "from r1jax.stages import adopt\nadopt.Run.published = 'model'\n"
    + "adopt.Run.model = @config.Transformer()\nadopt.Run.mesh = @mesh.Mesh()\n",
    "prepare": "include 'task.gin'\nfrom r1jax.data import jsonlines\nfrom r1jax.stages import prepare\n"
    "prepare.Run.task = @jsonlines.JsonLines()\nprepare.Run.tokenizer = 'base'\n"
    "from r1jax.data import template\nprepare.Run.general = 3\nprepare.Run.template = @template.Zero()\n"
    "template.Zero.text = '{question}='\n",
    "zero": MODEL
    + "from r1jax import loop\nfrom r1jax.learn import grpo\nfrom r1jax.learn import optim\n"
    + "from r1jax.stages import reinforce\n"
    + SAMPLES.replace("STAGE", "reinforce")
    + """
reinforce.Run:
  init = 'base'
  algorithm = @grpo.Grpo()
  rewards = (@mathematics.MathAccuracy(),)
  optimizer = @optim.AdamW()
  saving = @loop.Saving()
  steps = 2
  questions = 8
  rows = 8
  row_length = 32
  remat = False
optim.AdamW.learning_rate = 1e-3
loop.Saving.every = 1
""",
    "evaluate": MODEL
    + "from r1jax.stages import evaluate\n"
    + SAMPLES.replace("STAGE", "evaluate")
    + """
evaluate.Run:
  init = 'zero'
  accuracy = @mathematics.MathAccuracy()
  questions = 4
  chunk = 4
""",
}


def test_a_recipe_from_a_published_model_and_a_users_questions(tmp_path, monkeypatch):
    """adopt, prepare, reinforce and evaluate, through the command line: what a user with real data does."""
    publish(tmp_path / "model", tensors_of(QWEN))
    questions = [{"question": f"{a}+{b}", "answer": a + b} for a in range(6) for b in range(6)]
    (tmp_path / "rl.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions[:32]))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions[31:]))
    replies = [{"question": f"{a}+1", "completion": f"<think>{a}+1</think>{a + 1}"} for a in range(4)]
    (tmp_path / "replies.jsonl").write_text("".join(json.dumps(r) + "\n" for r in replies))
    for name, text in FILES.items():
        (tmp_path / f"{name}.gin").write_text("from __gin__ import dynamic_registration\n" + text)
    (tmp_path / "recipe.gin").write_text(RECIPE.format(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["run", "recipe.gin", "--dry_run"]) == 0
    assert main(["run", "recipe.gin"]) == 0
    root = tmp_path / "runs" / "real"
    summary = json.loads((root / "data" / "done.json").read_text())
    assert summary == {"documents": 0, "questions": 31, "held_out": 5, "left_out": 1, "vocabulary": 257}
    assert [record["step"] for record in read(root / "zero" / "metrics.jsonl")] == [1, 2]
    own = examples.read(epath.Path(root / "data"))
    assert [(e.prompt, e.completion) for e in own] == [(f"{a}+1=", f"<think>{a}+1</think>{a + 1}") for a in range(3)]
    results = json.loads((root / "evaluate" / "results.json").read_text())
    assert results["questions"] == 4 and 0 <= results["pass@1"] <= 1
    with jax.set_mesh(Mesh(fsdp=8).make()):
        first = policies.load(root / "base", QWEN, Layout(Mesh(fsdp=8)))
        last = policies.load(root / "zero", QWEN, Layout(Mesh(fsdp=8)))
    params, _ = huggingface.from_huggingface(tensors_of(QWEN), QWEN)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(first.params), params)
    assert jax.tree.structure(first) == jax.tree.structure(last)


def test_the_logits_of_a_model_that_its_own_library_saved(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**THEIRS | {"initializer_range": 0.2}))
    model.bfloat16().save_pretrained(tmp_path / "saved", max_shard_size="20KB")
    model = transformers.Qwen2ForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32).eval()
    assert len(list((tmp_path / "saved").glob("*.safetensors"))) > 1
    said = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert huggingface.differences(said, QWEN) == []
    tokens = np.random.default_rng(0).integers(0, 400, (2, 24))
    with torch.no_grad():
        theirs = model(torch.from_numpy(tokens)).logits.numpy()
    ones = np.ones_like(tokens, np.int32)
    with small.on(Mesh()):
        policy = huggingface.load(Tensors(tmp_path / "saved"), QWEN, small.ONE)
        rows = lm.Rows(*map(jnp.asarray, (tokens.astype(np.int32), ones.cumsum(1) - 1, ones, ones)))
        out = jax.jit(partial(lm.forward, cfg=QWEN, layout=small.ONE, remat=False, mtp=False))(policy, rows)
        ours = np.asarray(jnp.einsum("btd,dx->btx", out.x_BTD, out.head_DX))
    assert np.abs(theirs).max() > 0.5
    np.testing.assert_allclose(ours, theirs, atol=2e-5 * np.abs(theirs).max())
