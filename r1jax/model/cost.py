"""Model FLOPs: what the mathematics of a token costs, whatever recomputation or padding a machine adds; and the rate of
matrix products that a machine reaches, to set beside them."""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.base.mesh import Mesh
from r1jax.model import lm
from r1jax.model.config import Mla, Transformer
from r1jax.model.layout import Layout


def active_weights(cfg: Transformer) -> float:
    """Weights that multiply one token: all matrices but the embedding's look-up, of the routed experts the active
    share."""
    mesh = jax.sharding.get_abstract_mesh()  # one in force does as well: nothing is laid out over it
    with jax.sharding.use_abstract_mesh(Mesh().abstract() if mesh.empty else mesh):
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


def forward(cfg: Transformer, tokens: float, keys: float) -> float:
    """FLOPs of the forward pass of `tokens` tokens that attend to `keys` keys together; three times as many with the
    backward pass."""
    return tokens * forward_flops(cfg, keys / tokens) if tokens else 0.0


def sequences(ends: np.ndarray) -> tuple[float, float]:
    """(tokens, keys) that a forward pass of whole sequences of these lengths reads: a token attends to itself and all
    before."""
    return float(ends.sum()), float((ends * (ends + 1.0) / 2).sum())


def sampling(prompts_Q: np.ndarray, responses_QG: np.ndarray) -> tuple[float, float]:
    """(tokens, keys) that drawing responses of these lengths reads: each prompt once, for all its responses."""
    again = responses_QG.shape[1] - 1
    whole, prompts = sequences(prompts_Q[:, None] + responses_QG), sequences(prompts_Q)
    return whole[0] - again * prompts[0], whole[1] - again * prompts[1]


def matmul_rate(repeats: int = 15) -> float:
    """FLOP/s of a square matrix product on one device, the median: float32 on CPU, elsewhere bfloat16."""
    is_cpu = jax.default_backend() == "cpu"
    size, dtype = (1024, jnp.float32) if is_cpu else (8192, jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    a = jnp.ones((size, size), dtype)
    product(a, a).block_until_ready()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        product(a, a).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(seconds)
