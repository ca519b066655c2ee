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
ONE = Layout(Mesh())

# Every part of DeepSeek-V3 but YaRN.
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
)


@contextlib.contextmanager
def on(mesh: Mesh):
    """The mesh over the first of the eight devices, in force."""
    devices = jax.devices()[: mesh.size]
    with jax.set_mesh(jax.make_mesh(mesh.shape, AXES, axis_types=EXPLICIT, devices=devices)):
        yield


def draw(shapes, std: float):
    """Random arrays of these shapes, laid out as they say; those of norms are around one. The same on every mesh.

    Drawn by numpy: compiling the initialisation would take longer than most of what is tested with it."""
    rng = np.random.default_rng(0)

    def one(path, leaf):
        noise = rng.normal(0, std, leaf.shape).astype(np.float32)
        return collate.put(noise + (path[-1].key == "scale"), leaf.sharding.spec)

    return jax.tree_util.tree_map_with_path(one, shapes)


def policy(cfg: config.Transformer, layout: Layout) -> lm.Policy:
    """Weights of which every part matters, norms, biases and balancing biases as well."""
    shapes = lm.shapes(cfg, layout)
    return lm.Policy(params=draw(shapes.params, 0.3), router=draw(shapes.router, 0.1))


def view(cfg: config.Transformer, layout: Layout) -> lm.Policy:
    """The same policy as decoding wants it."""
    split = lm.view(jax.device_get(policy(cfg, layout)), cfg=cfg, layout=layout)
    return jax.tree.map(lambda w, s: collate.put(w, s.sharding.spec), split, lm.view_shapes(cfg, layout))


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


def rows(cfg: config.Transformer, layout: Layout, seed: int = 0) -> tuple[collate.Packed, lm.Rows]:
    """Eight packed rows of 16 tokens, on the host and on the mesh: up to three sequences a row, padding at the end."""
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(1, cfg.vocabulary, size) for size in (16, 15, 14, 9, 9, 8, 8, 7, 6, 5, 5, 4, 3, 2, 1)]
    packed, _ = collate.pack(sequences, 16)
    packed, _ = collate.stack(packed, 1, 8)
    packed = {name: a[0] for name, a in packed.items()}
    return packed, collate.put_rows(packed, layout)
