"""Between a Hugging Face checkpoint's tensors and a policy: Qwen2, Qwen3, Llama, DeepSeek-V2, DeepSeek-V3, Moonlight.

Each weight is declared once, in the tables below, and both directions follow from them: its path in our parameters, its
name there, and how many of our leading dimensions are inputs. A torch Linear holds [outputs, inputs], flat; we hold
[*inputs, *outputs] with heads apart, layers and experts stacked. Read tensors become float32: whole on the host by
`from_huggingface`, or by `load` laid out on a mesh, of which a process reads and holds only its own part.

Traps: rotary dimensions need no permutation: DeepSeek's files hold interleaved pairs, and `Rope.interleaved` rotates
such pairs. DeepSeek's released files are in FP8 with a float32 scale for every 128 x 128 block (`<name>_scale_inv`);
they are dequantised here. The prediction module is stored as one more layer, with copies of embedding and head.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax.base.fields import require
from r1jax.base.mesh import Mesh
from r1jax.model import lm
from r1jax.model.config import Llama3Scaling, Mla, Transformer, Yarn
from r1jax.model.layout import Layout

FP8_BLOCK = 128


class Entry(NamedTuple):
    """ours: path in the parameters. theirs: the name. inputs: leading dimensions that are contracted; 0: a vector, flat
    there; None: the same array on both sides."""

    ours: str
    theirs: str
    inputs: int | None = 1


TOP = (
    Entry("embed/w", "model.embed_tokens.weight", None),
    Entry("norm/scale", "model.norm.weight", 0),
    Entry("head/w", "lm_head.weight"),
)
NORMS = (
    Entry("attention_norm/scale", "input_layernorm.weight", 0),
    Entry("ffn_norm/scale", "post_attention_layernorm.weight", 0),
)
LATENT = (
    Entry("attention/q/w", "self_attn.q_proj.weight"),
    Entry("attention/q_a/w", "self_attn.q_a_proj.weight"),
    Entry("attention/q_norm/scale", "self_attn.q_a_layernorm.weight", 0),
    Entry("attention/q_b/w", "self_attn.q_b_proj.weight"),
    Entry("attention/kv_a/w", "self_attn.kv_a_proj_with_mqa.weight"),
    Entry("attention/kv_norm/scale", "self_attn.kv_a_layernorm.weight", 0),
    Entry("attention/kv_b/w", "self_attn.kv_b_proj.weight"),
    Entry("attention/o/w", "self_attn.o_proj.weight", 2),
)
GROUPED = (
    Entry("attention/q/w", "self_attn.q_proj.weight"),
    Entry("attention/k/w", "self_attn.k_proj.weight"),
    Entry("attention/v/w", "self_attn.v_proj.weight"),
    Entry("attention/q_bias", "self_attn.q_proj.bias", 0),
    Entry("attention/k_bias", "self_attn.k_proj.bias", 0),
    Entry("attention/v_bias", "self_attn.v_proj.bias", 0),
    Entry("attention/q_norm/scale", "self_attn.q_norm.weight", 0),
    Entry("attention/k_norm/scale", "self_attn.k_norm.weight", 0),
    Entry("attention/o/w", "self_attn.o_proj.weight", 2),
)
FEED_FORWARD = (
    Entry("ffn/gate/w", "mlp.gate_proj.weight"),
    Entry("ffn/up/w", "mlp.up_proj.weight"),
    Entry("ffn/down/w", "mlp.down_proj.weight"),
    Entry("ffn/shared/gate/w", "mlp.shared_experts.gate_proj.weight"),
    Entry("ffn/shared/up/w", "mlp.shared_experts.up_proj.weight"),
    Entry("ffn/shared/down/w", "mlp.shared_experts.down_proj.weight"),
    Entry("ffn/router", "mlp.gate.weight"),
    Entry("ffn/experts_gate", "mlp.experts.{expert}.gate_proj.weight"),
    Entry("ffn/experts_up", "mlp.experts.{expert}.up_proj.weight"),
    Entry("ffn/experts_down", "mlp.experts.{expert}.down_proj.weight"),
)
PREDICTION = (  # of the layer after the last
    Entry("mtp_embed_norm/scale", "enorm.weight", 0),
    Entry("mtp_hidden_norm/scale", "hnorm.weight", 0),
    Entry("mtp_project/w", "eh_proj.weight"),
    Entry("mtp_norm/scale", "shared_head.norm.weight", 0),
)
COPIES = (  # in that layer again
    Entry("embed/w", "embed_tokens.weight", None),
    Entry("head/w", "shared_head.head.weight"),
)
ROUTER_BIAS = "mlp.gate.e_score_correction_bias"


class _Slot(NamedTuple):
    """One of their tensors: where it lies in our tree (a path, and an index into stacked layers and experts)."""

    path: str
    index: tuple[int, ...]
    theirs: str
    inputs: int | None
    copy: bool = False


def from_huggingface(tensors: Mapping[str, np.ndarray], cfg: Transformer) -> tuple[dict, dict]:
    """A checkpoint's tensors by name -> (params, router) of a Policy, numpy float32, stacked as `lm.init` stacks them.

    `tensors` may read from disk on access: each is read once. UserError where a tensor is missing, has another shape
    than the config asks for, or is one that the model has no place for.
    """
    shapes = _shapes(cfg)
    leaves = {path: np.zeros(shape, np.float32) for path, shape in shapes.items()}
    for slot, value in _values(tensors, cfg, shapes):
        leaves[slot.path][slot.index] = value
    tree = _nest(leaves)
    return tree["params"], tree.get("router", {})


def load(tensors: Mapping[str, np.ndarray], cfg: Transformer, layout: Layout) -> lm.Policy:
    """The same as a Policy on the mesh in force; the host holds its part of one parameter at a time."""
    shapes = lm.shapes(cfg, layout)
    wanted = _flat({"params": shapes.params, "router": shapes.router})
    values = _values(tensors, cfg, {path: leaf.shape for path, leaf in wanted.items()})
    leaves = {}
    for path, group in itertools.groupby(values, key=lambda found: found[0].path):
        leaves[path] = _lay_out(wanted[path], group)
    leaves |= {path: _lay_out(leaf, ()) for path, leaf in wanted.items() if path not in leaves}  # zeros: no such bias
    tree = _nest(leaves)
    return lm.Policy(params=tree["params"], router=tree.get("router", {}))


def differences(config: Mapping[str, Any], cfg: Transformer) -> list[str]:
    """What a config.json says otherwise than the model, 'name: theirs, ours'; what it does not say is not compared."""
    rope = (config.get("rope_scaling") or {}) | (config.get("rope_parameters") or {})  # the latter since transformers 5
    found = {"rope_theta": config.get("rope_theta")} | dict(config) | {f"rope {key}": rope[key] for key in rope}
    found["rope_theta"] = rope.get("rope_theta", found["rope_theta"])
    found["rope kind"] = rope.get("rope_type", rope.get("type", "default"))
    if "topk_method" in config:
        found["topk_method"] = config["topk_method"] == "noaux_tc"
    return [
        f"{key} is {found[key]}, the model's {ours}"
        for key, ours in _said(cfg).items()
        if found.get(key) is not None and found[key] != ours
    ]


def _said(cfg: Transformer) -> dict[str, Any]:
    """What a config.json of this model says, as far as its logits depend on it."""
    said = {
        "vocab_size": cfg.vocabulary,
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.layers,
        "intermediate_size": cfg.ffn_width,
        "rms_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tied,
        "num_attention_heads": cfg.attention.heads,
        "rope_theta": cfg.rope.theta,
    }
    a, moe, scaling = cfg.attention, cfg.moe, cfg.rope.scaling
    if isinstance(a, Mla):
        said |= {"q_lora_rank": a.query_rank, "kv_lora_rank": a.kv_rank, "v_head_dim": a.value_dim}
        said |= {"qk_nope_head_dim": a.nope_dim, "qk_rope_head_dim": a.rope_dim}
    else:
        said |= {"num_key_value_heads": a.kv_heads, "head_dim": a.head_dim}
    if moe is not None:
        said |= {"n_routed_experts": moe.experts, "num_experts_per_tok": moe.active, "n_shared_experts": moe.shared}
        said |= {
            "moe_intermediate_size": moe.width,
            "first_k_dense_replace": moe.dense_layers,
            "scoring_func": moe.score,
        }
        said |= {"n_group": moe.groups, "topk_group": moe.top_groups, "topk_method": moe.select_bias}
        said |= {"norm_topk_prob": moe.renormalise, "routed_scaling_factor": moe.scale}
    kind = {Yarn: "yarn", Llama3Scaling: "llama3"}.get(type(scaling), "default")
    said |= {"rope kind": kind}
    if scaling is not None:
        said |= {"rope factor": scaling.factor, "rope original_max_position_embeddings": scaling.original_context}
    if isinstance(scaling, Yarn):
        said |= {"rope beta_fast": scaling.beta_fast, "rope beta_slow": scaling.beta_slow}
        said |= {"rope mscale": scaling.mscale, "rope mscale_all_dim": scaling.mscale_all}
    if isinstance(scaling, Llama3Scaling):
        said |= {"rope low_freq_factor": scaling.low_frequency, "rope high_freq_factor": scaling.high_frequency}
    return said


def _values(
    tensors: Mapping[str, np.ndarray], cfg: Transformer, shapes: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple["_Slot", np.ndarray]]:
    """Every slot with its value in our shape, those of one parameter together; at the end, what has no place."""
    known = set()
    for slot in sorted(_slots(cfg, shapes), key=lambda slot: slot.path):
        known |= {slot.theirs, f"{slot.theirs}_scale_inv"}
        if slot.copy:
            continue
        require(slot.theirs in tensors, f"the checkpoint has no {slot.theirs}, which the model's {slot.path} wants")
        value, shape = _read(tensors, slot.theirs), shapes[slot.path][len(slot.index) :]
        wanted = _their_shape(shape, slot.inputs)
        require(
            value.shape == wanted,
            f"the checkpoint's {slot.theirs} is {list(value.shape)}, the model's {slot.path} wants {list(wanted)}",
        )
        yield slot, (value.T if slot.inputs else value).reshape(shape)
    for name in tensors:
        require(name in known or _needless(name, cfg), f"the model has no place for the checkpoint's {name}")


def _lay_out(leaf: jax.ShapeDtypeStruct, values: Iterable[tuple["_Slot", np.ndarray]]) -> jax.Array:
    """One parameter on the mesh in force, out of the values of its slots; zeros where there is none."""
    sharding = jax.NamedSharding(jax.sharding.get_mesh(), leaf.sharding.spec)
    bounds = lambda index: tuple(s.indices(n)[:2] for s, n in zip(index, leaf.shape, strict=True))  # noqa: E731
    mine = {bounds(index) for index in sharding.addressable_devices_indices_map(leaf.shape).values()}
    shards = {part: np.zeros([stop - start for start, stop in part], np.float32) for part in mine}
    for slot, value in values:
        for part, shard in shards.items():
            stacked, rest = part[: len(slot.index)], part[len(slot.index) :]
            if all(start <= i < stop for i, (start, stop) in zip(slot.index, stacked, strict=True)):
                inside = tuple(i - start for i, (start, _) in zip(slot.index, stacked, strict=True))
                shard[inside] = value[tuple(slice(*ends) for ends in rest)]
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: shards[bounds(index)])


def to_huggingface(params: dict, router: dict, cfg: Transformer) -> dict[str, np.ndarray]:
    """(params, router) of a Policy, whole on this process -> a checkpoint's tensors by name, in their own dtypes."""
    leaves = _flat(jax.device_get({"params": params, "router": router}))
    tensors = {}
    for slot in _slots(cfg, {path: leaf.shape for path, leaf in leaves.items()}):
        value = leaves[slot.path][slot.index]
        shape = _their_shape(value.shape, slot.inputs)
        value = value.reshape(shape[::-1]).T if slot.inputs else value.reshape(shape)
        tensors[slot.theirs] = np.ascontiguousarray(value)
    return tensors


def _slots(cfg: Transformer, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[_Slot]:
    """Every tensor of the checkpoint whose parameter exists in `shapes`."""

    def table(entries, prefix: str, layer: str, index: tuple[int, ...] = (), copy: bool = False) -> Iterator[_Slot]:
        for entry in entries:
            path = f"params/{prefix}{entry.ours}"
            if path not in shapes:
                continue
            if "{expert}" not in entry.theirs:
                yield _Slot(path, index, layer + entry.theirs, entry.inputs, copy)
                continue
            for expert in range(cfg.moe.experts):
                yield _Slot(path, (*index, expert), layer + entry.theirs.format(expert=expert), entry.inputs, copy)

    block = NORMS + (LATENT if isinstance(cfg.attention, Mla) else GROUPED) + FEED_FORWARD
    yield from table(TOP, "", "")
    for n in range(cfg.layers):
        kind, i = ("dense", n) if n < cfg.dense_layers else ("moe", n - cfg.dense_layers)
        layer = f"model.layers.{n}."
        yield from table(block, f"{kind}/block/", layer, (i,))
        if kind == "moe" and cfg.moe.select_bias:
            yield _Slot("router/layers", (i,), layer + ROUTER_BIAS, 0)
    if cfg.mtp:
        layer = f"model.layers.{cfg.layers}."
        yield from table(PREDICTION, "", layer)
        yield from table(block, "mtp_block/", layer)
        yield from table(COPIES, "", layer, copy=True)
        if cfg.moe is not None and cfg.moe.select_bias:
            yield _Slot("router/mtp", (), layer + ROUTER_BIAS, 0)


def _needless(name: str, cfg: Transformer) -> bool:
    """Tensors that may lie in a checkpoint and say nothing: buffers, a tied head, a prediction module we do without."""
    prediction = not cfg.mtp and name.startswith(f"model.layers.{cfg.layers}.")
    return name.endswith("rotary_emb.inv_freq") or prediction or (cfg.tied and name == "lm_head.weight")


def _read(tensors: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    value, scale = tensors[name], f"{name}_scale_inv"
    if scale not in tensors:
        return value
    scales = np.repeat(np.repeat(tensors[scale], FP8_BLOCK, axis=0), FP8_BLOCK, axis=1)
    return value.astype(np.float32) * scales[: value.shape[0], : value.shape[1]]


def _their_shape(shape: tuple[int, ...], inputs: int | None) -> tuple[int, ...]:
    if inputs is None:
        return shape
    if inputs == 0:
        return (int(np.prod(shape)),)
    return int(np.prod(shape[inputs:])), int(np.prod(shape[:inputs]))


def _shapes(cfg: Transformer) -> dict[str, tuple[int, ...]]:
    mesh = jax.sharding.get_abstract_mesh()  # one in force cannot be changed for another; shapes are the same on any
    with jax.sharding.use_abstract_mesh(Mesh().abstract() if mesh.empty else mesh):
        policy = lm.shapes(cfg, Layout(Mesh()))
    return {path: leaf.shape for path, leaf in _flat({"params": policy.params, "router": policy.router}).items()}


def _flat(tree: dict) -> dict:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(key.key for key in path): leaf for path, leaf in leaves}


def _nest(leaves: Mapping[str, np.ndarray]) -> dict:
    tree = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree
