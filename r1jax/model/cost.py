"""Model FLOPs: what the mathematics of a token costs, whatever recomputation or padding a machine adds."""

import jax

from r1jax.base.mesh import Mesh
from r1jax.model import lm
from r1jax.model.config import Mla, Transformer
from r1jax.model.layout import Layout


def active_weights(cfg: Transformer) -> float:
    """Weights that multiply one token: all matrices but the embedding's look-up, of the routed experts the active
    share."""
    with jax.sharding.use_abstract_mesh(Mesh().abstract()):
        params = lm.shapes(cfg, Layout(Mesh())).params
    total = 0.0
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        names = [key.key for key in path]
        if names[0].startswith("mtp") or names[-1].endswith(("scale", "bias")):
            continue
        if names[0] == "embed" and not cfg.tied:
            continue
        routed = names[-1].startswith("experts_")
        total += leaf.size * (cfg.moe.active / cfg.moe.experts if routed else 1)
    return total


def forward_flops(cfg: Transformer, context: float) -> float:
    """FLOPs of one token's forward pass that attends to `context` tokens on average; a training step takes three times
    as many."""
    a = cfg.attention
    per_key = a.nope_dim + a.rope_dim + a.value_dim if isinstance(a, Mla) else 2 * a.head_dim
    return 2 * active_weights(cfg) + 2 * cfg.layers * a.heads * per_key * context
