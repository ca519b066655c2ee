"""Drawing tokens, and the sampling loop: what it draws does not depend on slots, meshes or company."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from scipy import stats

from r1jax import collate
from r1jax.base.mesh import Mesh
from r1jax.learn.likelihood import Model, score
from r1jax.model import lm
from r1jax.model.layout import Layout
from r1jax.rollout import slots
from r1jax.rollout.draw import draw, inverse_cdf
from r1jax.rollout.sampler import Prompts, Sample, Sampler

# Drawing.


def chances(logits, temperature: float):
    p = np.exp((logits - logits.max(-1, keepdims=True)) / temperature)
    return p / p.sum(-1, keepdims=True)


def kept(p, top_p, top_k):
    """What remains of one distribution, by sorting it: the k likeliest, then the fewest that make up top_p of those."""
    order = np.argsort(-p)[: top_k or len(p)]
    if top_p is not None:
        order = order[: 1 + np.searchsorted(np.cumsum(p[order]), top_p * p[order].sum())]
    return np.isin(np.arange(len(p)), order)


def test_a_grid_of_uniform_numbers_hits_each_token_as_often_as_it_should():
    """2,000 even steps through [0, 1): each token is hit n p times up to one at either end. 37 tokens: the blocks of 7
    in which the search goes do not come out even."""
    n, logits = 2_000, np.random.default_rng(0).normal(0, 2, 37).astype(np.float32)
    logits[[0, 6, 7, 20, 36]] = -np.inf
    grid = (jnp.arange(n, dtype=jnp.float32) + 0.5) / n
    out = draw(jnp.tile(logits, (n, 1)), grid, temperature=0.7, top_p=None, top_k=None)
    p = chances(np.float64(logits), 0.7)
    assert np.abs(np.bincount(out.token, minlength=37) - n * p).max() < 1.01
    assert (np.diff(out.token) >= 0).all()  # the inverse of a cumulative distribution rises
    np.testing.assert_allclose(out.logp, np.log(p[out.token]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(out.mass, 1, rtol=1e-5)


def test_frequencies_of_random_draws():
    """A right sampler is refused by one seed in a thousand; this seed is fixed."""
    n, logits = 20_000, np.random.default_rng(1).normal(0, 1, 37).astype(np.float32)
    uniform = jax.random.uniform(jax.random.key(0), (n,))
    out = draw(jnp.tile(logits, (n, 1)), uniform, temperature=1.0, top_p=None, top_k=None)
    counts = np.bincount(out.token, minlength=37)
    assert stats.chisquare(counts, n * chances(np.float64(logits), 1.0)).pvalue > 1e-3


@pytest.mark.parametrize(
    ("top_p", "top_k"), [(None, 1), (None, 5), (0.8, None), (0.01, None), (1.0, None), (0.7, 6), (None, 37)]
)
def test_filters_equal_sorting(top_p, top_k):
    n, rng = 400, np.random.default_rng(2)
    logits = rng.normal(0, 2, (10, 37)).astype(np.float32)
    grid = (jnp.arange(n, dtype=jnp.float32) + 0.5) / n
    run = jax.jit(jax.vmap(partial(draw, temperature=0.8, top_p=top_p, top_k=top_k), (0, None)))
    out = run(jnp.tile(logits[:, None], (1, n, 1)), grid)
    for row, p in enumerate(chances(np.float64(logits), 0.8)):
        keep = kept(p, top_p, top_k)
        assert float(out.mass[row, 0]) == pytest.approx(p[keep].sum(), rel=1e-5)
        counts = np.bincount(out.token[row], minlength=37)
        assert np.abs(counts - n * np.where(keep, p, 0) / p[keep].sum()).max() < 1.01
        # The recorded log-probability is that of the whole distribution, whatever was filtered.
        np.testing.assert_allclose(out.logp[row], np.log(p[out.token[row]]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("vocabulary", [1, 2, 37, 64])
def test_a_token_of_probability_zero_is_never_drawn(vocabulary):
    """At both ends of [0, 1), where all tokens but one are impossible."""
    uniform = jnp.tile(jnp.array([0.0, 1e-30, 0.5, np.nextafter(np.float32(1), np.float32(0))]), vocabulary)
    only = np.repeat(np.arange(vocabulary), 4)
    p = 0.3 * jax.nn.one_hot(only, vocabulary)
    np.testing.assert_array_equal(inverse_cdf(p, uniform), only)
    out = draw(jnp.where(p > 0, -40.0, -jnp.inf), uniform, temperature=0.5, top_p=0.9, top_k=3)
    np.testing.assert_array_equal(out.token, only)
    assert (out.logp == 0).all() and (out.mass == 1).all()


def test_rounding_never_leads_to_an_impossible_token():
    """Sparse distributions over 12 orders of magnitude, drawn where the sums' last bits decide."""
    rng = np.random.default_rng(3)
    p = np.where(rng.random((20_000, 50)) < 0.2, 10.0 ** rng.uniform(-12, 0, (20_000, 50)), 0).astype(np.float32)
    p[:, 20] += 1e-6
    ends = np.cumsum(p, 1)[np.arange(len(p)), rng.integers(0, 50, len(p))] / p.sum(1)
    token = np.asarray(inverse_cdf(jnp.asarray(p), jnp.minimum(ends, np.nextafter(np.float32(1), np.float32(0)))))
    assert (p[np.arange(len(p)), token] > 0).all()


def test_temperature_zero_takes_the_likeliest():
    logits = jnp.array([[0.0, 3.0, 2.0], [5.0, -1.0, 4.9]])
    out = draw(logits, jnp.array([0.99, 0.99]), temperature=0, top_p=None, top_k=None)
    assert out.token.tolist() == [1, 0] and out.logp.tolist() == [0, 0] and out.mass.tolist() == [1, 1]


# The sampling loop.

Q, G, P, L = 8, 4, 6, 10
EOS = 11  # both models draw it now and then
QUESTIONS = np.arange(Q) + 100
MODELS = {"latent, experts": small.MOE, "grouped, dense": small.DENSE}


def prompts() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, P + 1, Q)
    return np.where(np.arange(P) < lengths[:, None], rng.integers(3, small.X, (Q, P)), 0), lengths


@cache
def compiled(cfg, mesh: Mesh, count: int):
    sampler = Sampler(samples=G, prompt_tokens=P, response_tokens=L, slots=count, temperature=0.9, top_p=0.98)
    run = partial(slots.generate, sampler=sampler, eos=EOS, cfg=cfg, layout=Layout(mesh, resident=True))
    return jax.jit(run)


def sample(
    cfg, mesh=small.ONE.mesh, count=Q * G, order=range(Q), change=lambda view: view, tokens=None
) -> tuple[Sample, int]:
    """The questions, in this order, sampled on a mesh with so many slots -> (numpy, in the order of the ids; turns)."""
    order, (plain, lengths) = np.array(order), prompts()
    tokens = plain if tokens is None else tokens
    layout = Layout(mesh, resident=True)
    with small.on(mesh):
        put = lambda a: collate.put(np.asarray(a, np.int32)[order], jax.P(layout.rows))  # noqa: E731
        key = jax.random.fold_in(jax.random.key(5), 3)
        view = change(small.view(cfg, layout))
        out, turns = compiled(cfg, mesh, count)(view, Prompts(put(tokens), put(lengths), put(QUESTIONS)), key)
        out = jax.tree.map(lambda a: np.asarray(a)[np.argsort(order)], out)
    return out, int(turns)


def sequences_of(out: Sample) -> list[list[int]]:
    """Prompt and response of every sample."""
    tokens, lengths = prompts()
    return [[*tokens[q, : lengths[q]], *out.tokens[q, g, : out.lengths[q, g]]] for q, g in np.ndindex(Q, G)]


@cache
def reference(cfg) -> tuple[Sample, int]:
    """One device, with a slot for every sample."""
    return sample(cfg)


def same(got: Sample, wanted: Sample) -> None:
    """The same tokens. Log-probabilities differ by rounding, as sums are added in another order."""
    for name in ("tokens", "lengths", "finished"):
        np.testing.assert_array_equal(getattr(got, name), getattr(wanted, name))
    for name in ("logp", "mass"):
        np.testing.assert_allclose(getattr(got, name), getattr(wanted, name), atol=2e-5)


@pytest.mark.parametrize("cfg", MODELS.values(), ids=MODELS)
def test_what_is_recorded(cfg):
    out, _ = reference(cfg)
    assert 0.1 < out.finished.mean() < 0.9  # both kinds are there
    columns = np.arange(L)
    inside = columns < out.lengths[..., None]
    at_end = np.take_along_axis(out.tokens, out.lengths[..., None] - 1, -1)[..., 0]
    np.testing.assert_array_equal(at_end == EOS, out.finished)  # EOS is kept, and counted in the length
    assert (out.lengths[~out.finished] == L).all()
    assert ((out.tokens == EOS).sum(-1) == out.finished).all()  # nothing after it
    for values in (out.tokens, out.logp, out.mass):
        assert not values[~inside].any()
    assert ((out.mass >= 0.98 - 1e-5) & (out.mass < 1 + 1e-5))[inside].all() and (out.logp < 0)[inside].any()
    assert len({tuple(row) for row in out.tokens.reshape(-1, L)}) > Q * G // 2  # samples of a question differ


@pytest.mark.parametrize("cfg", MODELS.values(), ids=MODELS)
def test_sampled_log_probabilities_are_those_of_scoring(cfg):
    """The policy scores what it sampled, packed into rows, at the same temperature: in float32 within 1e-4."""
    out, _ = reference(cfg)
    _, lengths = prompts()
    packed, places = collate.pack(sequences_of(out), P + L)
    with small.on(Mesh()):
        rows = collate.put_rows(packed, small.ONE)
        run = jax.jit(partial(score, model=Model(cfg, small.ONE, False)))
        logp = np.asarray(run(small.policy(cfg, small.ONE), rows, 0.9).logp)
    for index, row, column, _ in places:
        q, g = divmod(index, G)
        first, size = column + lengths[q] - 1, out.lengths[q, g]
        assert np.abs(logp[row, first : first + size] - out.logp[q, g, :size]).max() <= 1e-4


@pytest.mark.parametrize("cfg", MODELS.values(), ids=MODELS)
def test_every_draw_follows_from_its_key(cfg):
    """The number drawn at fold_in(seed, rollout, question id, sample index, position) lies in the token's part of the
    cumulative distribution, which is computed here in float64 from one pass over the whole sequences."""
    out, _ = reference(cfg)
    _, lengths = prompts()
    packed, places = collate.pack(sequences_of(out), P + L)
    with small.on(Mesh()):
        run = jax.jit(partial(lm.forward, cfg=cfg, layout=small.ONE, remat=False))
        seen = run(small.policy(cfg, small.ONE), collate.put_rows(packed, small.ONE))
        p = chances(np.float64(seen.x_BTD) @ np.float64(seen.head_DX), 0.9)

        def number(question, sample, position):
            key = jax.random.fold_in(jax.random.key(5), 3)
            for part in (question, sample, position):
                key = jax.random.fold_in(key, part)
            return jax.random.uniform(key)

        each = jnp.vectorize(number)(QUESTIONS[:, None, None], jnp.arange(G)[:, None], jnp.arange(L))
    for index, row, column, _ in places:
        q, g = divmod(index, G)
        for t in range(out.lengths[q, g]):
            chance = p[row, column + lengths[q] - 1 + t]
            chance = np.where(kept(chance, 0.98, None), chance, 0) / chance[kept(chance, 0.98, None)].sum()
            end = chance[: out.tokens[q, g, t] + 1].sum()
            assert end - chance[out.tokens[q, g, t]] - 1e-5 < each[q, g, t] < end + 1e-5


def turns_of(lengths, count: int, shards: int) -> int:
    """Turns of the loop if every slot that ends takes the next sample of its shard at once."""
    longest = 0
    for queue in np.split(lengths.reshape(-1), shards):
        free = np.zeros(count // shards, int)
        for length in queue:
            slot = free.argmin()
            free[slot] += length
        longest = max(longest, free.max())
    return longest


@pytest.mark.parametrize("cfg", MODELS.values(), ids=MODELS)
def test_slots_are_refilled_at_once(cfg):
    wanted, turns = reference(cfg)
    assert turns == turns_of(wanted.lengths, Q * G, 1) == wanted.lengths.max()
    out, turns = sample(cfg, count=8)
    same(out, wanted)
    assert turns == turns_of(wanted.lengths, 8, 1) < Q * G // 8 * L


@pytest.mark.parametrize(
    ("cfg", "mesh"),
    [
        pytest.param(small.MOE, Mesh(data=2, expert=2, tensor=2), id="experts and width"),
        pytest.param(small.MOE, Mesh(fsdp=2, expert=4), id="experts"),
        pytest.param(small.DENSE, Mesh(data=2, fsdp=2, tensor=2), id="heads"),
    ],
)
def test_samples_do_not_depend_on_the_mesh(cfg, mesh):
    wanted, _ = reference(cfg)
    out, turns = sample(cfg, mesh, count=8)
    same(out, wanted)
    assert turns == turns_of(wanted.lengths, 8, mesh.data * mesh.fsdp * mesh.expert)


@pytest.mark.parametrize("cfg", MODELS.values(), ids=MODELS)
def test_samples_do_not_depend_on_company_or_order(cfg):
    wanted, _ = reference(cfg)
    order = np.random.default_rng(4).permutation(Q)
    same(sample(cfg, count=8, order=order)[0], wanted)
    tokens, _ = prompts()
    tokens[1:] = np.where(tokens[1:] > 0, 3 + (tokens[1:] + 5) % (small.X - 3), 0)  # other questions beside the first
    out, _ = sample(cfg, count=8, tokens=tokens)
    same(*(jax.tree.map(lambda a: a[:1], s) for s in (out, wanted)))
    assert (out.tokens[1:] != wanted.tokens[1:]).any((1, 2)).all()


@pytest.mark.parametrize(("sign", "length"), [(1, 1), (-1, L)], ids=["at once", "never"])
def test_a_model_that_ends(sign, length):
    """All embeddings point one way, and so do the hidden states; EOS's column of the head points there or away."""

    def change(view):
        weights = jax.tree.map(np.zeros_like, view.params)
        weights["embed"]["w"][:, 0] = weights["norm"]["scale"][:] = 1
        weights["head"]["w"][0, EOS] = sign * 50
        return view.replace(params=jax.tree.map(jnp.asarray, weights))

    out, turns = sample(small.MOE, count=8, change=change)
    assert (out.lengths == length).all() and (out.finished == (sign > 0)).all()
    assert ((out.tokens == EOS).any(-1) == (sign > 0)).all()
    assert turns == length * Q * G // 8
