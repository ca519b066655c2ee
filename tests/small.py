"""What the tests of model, learning and sampling share: two small models, meshes over few devices, random sequences."""

import contextlib

import jax
import numpy as np

from r1jax import collate
from r1jax.base.mesh import AXES, EXPLICIT, Mesh
from r1jax.experience import Experience
from r1jax.model import config, lm
from r1jax.model.layout import Layout

X = 32  # vocabulary
EOS = 2
ONE = Layout(Mesh())

# Every part of DeepSeek-V3 but YaRN; weights large enough that tokens differ in what they do.
MOE = config.Transformer(
    vocabulary=X,
    width=16,
    layers=3,
    ffn_width=32,
    context=32,
    attention=config.Mla(heads=4, query_rank=8, kv_rank=8, nope_dim=4, rope_dim=4, value_dim=6),
    rope=config.Rope(interleaved=True),
    moe=config.Moe(experts=8, active=2, shared=1, width=8, groups=2, top_groups=1, scale=2.5, balance_loss=0.1),
    mtp=1,
    init_std=0.3,
)
DENSE = config.Transformer(
    vocabulary=X,
    width=16,
    layers=2,
    ffn_width=32,
    context=32,
    attention=config.Gqa(heads=4, kv_heads=2, head_dim=4, bias=True, qk_norm=True),
    rope=config.Rope(),
    tied=True,
    init_std=0.3,
)


@contextlib.contextmanager
def on(mesh: Mesh):
    """The mesh over the first of the eight devices, in force."""
    devices = jax.devices()[: mesh.size]
    with jax.set_mesh(jax.make_mesh(mesh.shape, AXES, axis_types=EXPLICIT, devices=devices)):
        yield


def policy(cfg: config.Transformer, layout: Layout) -> lm.Policy:
    """The same weights on every mesh; balancing biases that change which experts are chosen."""
    fresh = jax.jit(lambda key: lm.init(key, cfg, layout))(jax.random.key(0))
    rng = np.random.default_rng(0)
    router = {name: rng.normal(0, 0.1, b.shape).astype(np.float32) for name, b in sorted(fresh.router.items())}
    return fresh.replace(router={name: collate.put(bias, jax.P()) for name, bias in router.items()})


def experience(seed: int, sequences: int, window: int) -> Experience:
    """A rollout of random sequences; the policies' log-probabilities of its tokens are near each other."""
    rng = np.random.default_rng(seed)
    starts = rng.integers(1, window - 1, sequences)
    ends = rng.integers(starts + 1, window + 1)
    columns = np.arange(window)
    inside = (columns >= starts[:, None]) & (columns < ends[:, None])
    logp = -rng.exponential(1, inside.shape)
    near = lambda: np.where(inside, logp + rng.normal(0, 0.3, inside.shape), 0).astype(np.float32)  # noqa: E731
    return Experience(
        tokens=np.where(columns < ends[:, None], rng.integers(3, X, inside.shape), 0).astype(np.int32),
        starts=starts.astype(np.int32),
        ends=ends.astype(np.int32),
        finished=rng.random(sequences) < 0.7,
        sampled=near(),
        old=near(),
        reference=near(),
        advantages=rng.normal(0, 1, sequences).astype(np.float32),
        order=rng.permutation(sequences).astype(np.int32),
    )
