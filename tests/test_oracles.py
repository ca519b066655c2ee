"""Logits equal those of Hugging Face's models, whose weights are read from a checkpoint that our name maps wrote.

Each case is one tiny model, stated twice: as our Transformer and as their config. Random weights of ours are written
under the published names, loaded there (nothing missing, nothing unexpected), and both compute in float32 on CPU.
Their models take one sequence at a time; ours takes them packed into rows, and also decodes them token by token.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.base.fields import UserError
from r1jax.base.mesh import AXES, Mesh
from r1jax.model import config, huggingface, lm
from r1jax.model.layout import Layout

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors = pytest.importorskip("safetensors.numpy")
torch.set_num_threads(1)  # tiny models run 30 to 60 times slower on more

LAYOUT = Layout(Mesh())
X, D, N, F, CONTEXT, THETA = 71, 32, 3, 56, 128, 50.0
LENGTHS = (40, 17, 21)  # packed into two rows: 40, and 17 + 21 + padding
COMMON = dict(
    vocab_size=X,
    hidden_size=D,
    num_hidden_layers=N,
    intermediate_size=F,
    max_position_embeddings=CONTEXT,
    rms_norm_eps=1e-6,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)
# With this theta the ramp of YaRN's four frequencies is 0, 1/4, 1/2, 3/4.
YARN = dict(factor=4.0, original_context=32, beta_fast=4.0, beta_slow=0.25, mscale=1.0, mscale_all=0.707)


def transformer(**fields) -> config.Transformer:
    return config.Transformer(vocabulary=X, width=D, layers=N, ffn_width=F, context=CONTEXT, **fields)


def grouped(theirs: str, kv_heads: int, head_dim: int, *, bias=False, qk_norm=False, tied=False, llama3=None):
    ours = transformer(
        attention=config.Gqa(heads=4, kv_heads=kv_heads, head_dim=head_dim, bias=bias, qk_norm=qk_norm),
        rope=config.Rope(theta=THETA, scaling=llama3),
        tied=tied,
    )
    rope = {"rope_type": "default", "rope_theta": THETA}
    if llama3:
        rope |= {
            "rope_type": "llama3",
            "factor": llama3.factor,
            "original_max_position_embeddings": llama3.original_context,
            "low_freq_factor": llama3.low_frequency,
            "high_freq_factor": llama3.high_frequency,
        }
    fields = dict(num_attention_heads=4, num_key_value_heads=kv_heads, tie_word_embeddings=tied, rope_parameters=rope)
    return ours, theirs, COMMON | fields | ({} if theirs == "Qwen2" else {"head_dim": head_dim})


def latent(theirs: str, *, query_rank: int | None, yarn: dict | None = None, mtp: int = 0, **moe):
    ours = transformer(
        attention=config.Mla(heads=4, query_rank=query_rank, kv_rank=12, nope_dim=8, rope_dim=8, value_dim=6),
        rope=config.Rope(theta=THETA, interleaved=True, scaling=config.Yarn(**yarn) if yarn else None),
        moe=config.Moe(width=12, dense_layers=1, **moe),
        mtp=mtp,
    )
    rope = {"rope_type": "default", "rope_theta": THETA}
    if yarn:
        rope |= {
            "rope_type": "yarn",
            "factor": yarn["factor"],
            "original_max_position_embeddings": yarn["original_context"],
            "beta_fast": yarn["beta_fast"],
            "beta_slow": yarn["beta_slow"],
            "mscale": yarn["mscale"],
            "mscale_all_dim": yarn["mscale_all"],
        }
    m = ours.moe
    fields = dict(
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=query_rank,
        kv_lora_rank=12,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=6,
        first_k_dense_replace=1,
        n_routed_experts=m.experts,
        n_shared_experts=m.shared,
        num_experts_per_tok=m.active,
        moe_intermediate_size=m.width,
        n_group=m.groups,
        topk_group=m.top_groups,
        routed_scaling_factor=m.scale,
        norm_topk_prob=m.renormalise,
        rope_parameters=rope,
    )
    if theirs == "DeepseekV2":
        fields["topk_method"] = "group_limited_greedy" if m.groups > 1 else "greedy"
    else:
        fields["num_mtp_layers"] = mtp
    return ours, theirs, COMMON | fields


V2 = dict(score="softmax", select_bias=False, renormalise=False)
SCALED = config.Llama3Scaling(factor=8.0, original_context=64, low_frequency=1.0, high_frequency=4.0)
CASES = {
    "qwen2 (tied, biases)": grouped("Qwen2", 2, 8, bias=True, tied=True),
    "qwen3 (qk norm)": grouped("Qwen3", 2, 12, qk_norm=True),
    "llama (scaled frequencies)": grouped("Llama", 1, 16, llama3=SCALED),
    "v3": latent("DeepseekV3", query_rank=20, experts=8, active=3, shared=1),
    "v3, groups": latent("DeepseekV3", query_rank=20, experts=8, active=3, shared=1, groups=4, top_groups=2, scale=2.5),
    "v3, no query rank": latent("DeepseekV3", query_rank=None, experts=8, active=3, shared=2, scale=2.446),
    "v3, YaRN": latent("DeepseekV3", query_rank=20, yarn=YARN, experts=8, active=2, shared=1),
    "v2": latent("DeepseekV2", query_rank=None, yarn=YARN, experts=8, active=3, shared=2, **V2),
    "v2, groups": latent(
        "DeepseekV2", query_rank=20, experts=8, active=3, shared=2, groups=4, top_groups=2, scale=16.0, **V2
    ),
}
PREDICTING = latent(
    "DeepseekV3", query_rank=20, mtp=1, experts=8, active=3, shared=1, groups=4, top_groups=2, scale=2.5
)


@pytest.fixture(autouse=True)
def one_device():
    with jax.set_mesh(jax.make_mesh((1,) * len(AXES), AXES, devices=jax.devices()[:1])):
        yield


def weights(cfg: config.Transformer) -> lm.Policy:
    """Weights that make every part matter: norms off one, biases off zero, scores apart."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        name = path[-1].key
        if name == "scale":
            return 1 + 0.3 * noise
        return noise * (0.1 if leaf.ndim < 3 and name in ("layers", "mtp") else 0.3)

    policy = lm.shapes(cfg, LAYOUT)
    router = policy.router if cfg.moe is not None and cfg.moe.select_bias else {}
    tree = jax.tree_util.tree_map_with_path(draw, {"params": policy.params, "router": router})
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), policy.router)
    return lm.Policy(params=tree["params"], router=zeros | tree["router"])


def load(case, policy: lm.Policy, folder):
    """Their model, with our weights in it."""
    ours, name, fields = case
    their_config = getattr(transformers, f"{name}Config")(**fields)
    their_config.save_pretrained(folder)
    tensors = huggingface.to_huggingface(policy.params, policy.router, ours)
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model, report = getattr(transformers, f"{name}ForCausalLM").from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["mismatched_keys"] and not report["error_msgs"]
    assert not [key for key in report["unexpected_keys"] if not (ours.mtp and f"layers.{ours.layers}." in key)]
    return model.eval()


def sequences() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, X, length) for length in LENGTHS]


def pack(parts: list[np.ndarray]) -> lm.Rows:
    """The first sequence in row 0, the two others in row 1, padded at the end."""
    rows = {name: np.zeros((2, LENGTHS[0]), np.int32) for name in ("tokens", "positions", "segments", "targets")}
    for part, row, start, segment in zip(parts, (0, 1, 1), (0, 0, LENGTHS[1]), (1, 1, 2), strict=True):
        cells = slice(start, start + len(part))
        rows["tokens"][row, cells], rows["positions"][row, cells] = part, np.arange(len(part))
        rows["segments"][row, cells], rows["targets"][row, cells] = segment, np.append(part[1:], 0)
    return lm.Rows(**rows)


def unpack(x) -> list[np.ndarray]:
    x = np.asarray(x)
    return [x[0], x[1, : LENGTHS[1]], x[1, LENGTHS[1] : LENGTHS[1] + LENGTHS[2]]]


def same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    scale = max(np.abs(t).max() for t in theirs)
    assert scale > 0.5
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        assert np.abs(a - b).max() <= 2e-5 * scale


def their_logits(model, parts: list[np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        return [model(torch.from_numpy(part)[None]).logits[0].numpy() for part in parts]


@jax.jit
def head(x_BTD, head_DX):
    return jnp.einsum("btd,dx->btx", x_BTD, head_DX)


def our_output(policy: lm.Policy, rows: lm.Rows, cfg: config.Transformer, mtp: bool = False) -> lm.Output:
    return jax.jit(partial(lm.forward, cfg=cfg, layout=LAYOUT, remat=False, mtp=mtp))(policy, rows)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_logits_of_packed_rows(case, tmp_path):
    policy, parts = weights(case[0]), sequences()
    theirs = their_logits(load(case, policy, tmp_path), parts)
    out = our_output(policy, pack(parts), case[0])
    same(unpack(head(out.x_BTD, out.head_DX)), theirs)


@pytest.mark.parametrize("name", ["qwen2 (tied, biases)", "qwen3 (qk norm)", "v3, YaRN", "v2, groups"])
def test_logits_of_decoding(name, tmp_path):
    """Two prompts of 9 tokens are prefilled, the rest is fed token by token."""
    case = CASES[name]
    cfg, policy, prompt = case[0], weights(case[0]), 9
    parts = [part[: LENGTHS[1]] for part in sequences()[:2]]
    theirs = their_logits(load(case, policy, tmp_path), parts)
    tokens = jnp.asarray(np.stack(parts), jnp.int32)
    view = jax.jit(lambda policy: lm.view(policy, cfg=cfg, layout=LAYOUT))(jax.tree.map(jnp.asarray, policy))

    @jax.jit
    def run(view, tokens):
        ones = jnp.ones((2, prompt), jnp.int32)
        rows = lm.Rows(tokens[:, :prompt], jnp.cumsum(ones, 1) - 1, ones, ones)
        entries = lm.prefill(view, rows, cfg=cfg, layout=LAYOUT).entries
        start = jnp.zeros((2,), jnp.int32)
        cache = [
            lm.caches.write(empty, entry, start)
            for empty, entry in zip(lm.empty_cache(entries, 2, LENGTHS[1]), entries, strict=True)
        ]

        def step(cache, t):
            logits, cache = lm.decode(
                view, tokens[:, t], start + t, jnp.ones((2,), bool), cache, cfg=cfg, layout=LAYOUT
            )
            return cache, logits

        return jax.lax.scan(step, cache, jnp.arange(prompt, LENGTHS[1]))[1]

    ours = np.asarray(run(view, tokens))
    same([ours[:, row] for row in range(2)], [logits[prompt:] for logits in theirs])


def test_multi_token_prediction(tmp_path, monkeypatch):
    """Their module sees the main model's normalised hidden states and the embeddings of the following tokens."""
    layers = pytest.importorskip("transformers.modeling_layers")
    if not hasattr(layers, "MtpModel"):
        pytest.skip("this version of transformers has no multi-token prediction")
    cfg, policy, parts = PREDICTING[0], weights(PREDICTING[0]), sequences()
    model = load(PREDICTING, policy, tmp_path)
    # It finds the module's tensors by this pattern, which is written for 61 layers.
    monkeypatch.setattr(model, "_keys_to_ignore_on_load_unexpected", [rf"model\.layers\.{N}.*"])
    module = layers.MtpModel.from_pretrained(model).eval()
    theirs = []
    with torch.no_grad():
        for part in parts:
            following = torch.from_numpy(np.append(part[1:], 0))[None]
            cache = transformers.cache_utils.MtpCache(config=model.config.get_mtp_config())
            positions = torch.arange(1, len(part) + 1)[None]
            hidden = model.model(torch.from_numpy(part)[None]).last_hidden_state
            hidden = module.forward_layer(0, hidden, positions, cache, input_ids=following)
            theirs.append(model.lm_head(hidden)[0].numpy())
    out = our_output(policy, pack(parts), cfg, mtp=True)
    same(unpack(head(out.mtp_BTD, out.head_DX)), theirs)


@pytest.mark.parametrize("case", [*CASES.values(), PREDICTING], ids=[*CASES, "v3, predicting"])
def test_round_trip(case, tmp_path):
    cfg, policy = case[0], weights(case[0])
    tensors = huggingface.to_huggingface(policy.params, policy.router, cfg)
    params, router = huggingface.from_huggingface(tensors, cfg)
    jax.tree.map(np.testing.assert_array_equal, params, policy.params)
    jax.tree.map(np.testing.assert_array_equal, router, policy.router)
    if cfg.mtp:
        return
    # What they save is what we read.
    load(case, policy, tmp_path).save_pretrained(tmp_path / "saved")
    saved = safetensors.load_file(tmp_path / "saved" / "model.safetensors")
    assert saved.keys() == tensors.keys()
    again, _ = huggingface.from_huggingface(saved, cfg)
    jax.tree.map(np.testing.assert_array_equal, again, policy.params)


def test_export_of_sharded_weights():
    cfg, mesh = dataclasses.replace(PREDICTING[0], vocabulary=72), Mesh(fsdp=2, expert=2, tensor=2)
    with jax.set_mesh(mesh.make()):
        policy = jax.jit(lambda key: lm.init(key, cfg, Layout(mesh)))(jax.random.key(0))
        params, _ = huggingface.from_huggingface(huggingface.to_huggingface(policy.params, policy.router, cfg), cfg)
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(policy.params))


def test_wrong_checkpoints_say_what_is_wrong():
    cfg = CASES["v3"][0]
    policy = weights(cfg)
    tensors = huggingface.to_huggingface(policy.params, policy.router, cfg)
    name = "model.layers.1.mlp.experts.5.up_proj.weight"
    with pytest.raises(UserError, match=f"has no {name}, which the model's params/moe/block/ffn/experts_up wants"):
        huggingface.from_huggingface({key: value for key, value in tensors.items() if key != name}, cfg)
    with pytest.raises(UserError, match=rf"{name} is \[12, 31\], the model's .* wants \[12, 32\]"):
        huggingface.from_huggingface(tensors | {name: tensors[name][:, :-1]}, cfg)
    foreign = "model.layers.0.self_attn.q_proj.bias"
    with pytest.raises(UserError, match=f"the model has no place for the checkpoint's {foreign}"):
        huggingface.from_huggingface(tensors | {foreign: np.zeros(4)}, cfg)
    huggingface.from_huggingface(tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4)}, cfg)


def test_prediction_module_may_be_left_out():
    cfg, policy = PREDICTING[0], weights(PREDICTING[0])
    tensors = huggingface.to_huggingface(policy.params, policy.router, cfg)
    params, router = huggingface.from_huggingface(tensors, dataclasses.replace(cfg, mtp=0))
    assert params.keys() == {name for name in policy.params if not name.startswith("mtp")}
    assert router.keys() == {"layers"}


def test_scaled_blocks_are_dequantised():
    """FP8 as DeepSeek releases it: a scale for every 128 x 128 block, the last blocks cut off by the matrix."""
    cfg = dataclasses.replace(CASES["v3"][0], ffn_width=200)
    policy = weights(cfg)
    tensors = huggingface.to_huggingface(policy.params, policy.router, cfg)
    name = "model.layers.0.mlp.gate_proj.weight"
    low = tensors[name].astype(jnp.float8_e4m3fn)
    scale = np.array([[2.0], [0.5]], np.float32)
    params, _ = huggingface.from_huggingface(tensors | {name: low, f"{name}_scale_inv": scale}, cfg)
    wanted = low.astype(np.float32) * np.where(np.arange(200) < 128, 2.0, 0.5)[:, None]
    np.testing.assert_array_equal(params["dense"]["block"]["ffn"]["gate"]["w"][0], wanted.T)
