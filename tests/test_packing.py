"""Packing, the feed, and what stands where when a rollout is packed into rows: properties over random input."""

import numpy as np
import pytest
import small
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax import collate
from r1jax.base.fields import UserError
from r1jax.data import feed, packing
from r1jax.experience import Shape, gather, rows_of, spread

lengths_and_capacity = st.integers(1, 40).flatmap(
    lambda capacity: st.tuples(st.lists(st.integers(1, capacity), min_size=1, max_size=60), st.just(capacity))
)
quick = settings(max_examples=200, deadline=None, derandomize=True)


@quick
@given(lengths_and_capacity)
def test_best_fit(case):
    lengths, capacity = case
    rows = packing.best_fit(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    filled = sorted(sum(lengths[index] for index in row) for row in rows)
    assert filled[-1] <= capacity
    if len(rows) > 1:  # any two rows hold more than one row can, hence fewer than twice the least number of rows
        assert filled[0] + filled[1] > capacity
        assert len(rows) * capacity < 2 * sum(lengths)


def test_best_fit_prefers_the_fullest_row():
    """Of 7, 6, 3, 2, 2 in rows of 10: 3 goes to 7 and 2 to 6, each the fullest that holds it; then 2 to 8."""
    assert packing.best_fit([2, 7, 2, 3, 6], 10) == [[1, 3], [4, 0, 2]]


def test_too_long_a_sequence_is_refused():
    with pytest.raises(UserError, match="a sequence of 11 tokens does not fit a row of 10"):
        packing.best_fit([3, 11], 10)


@quick
@given(lengths_and_capacity)
def test_packed_sequences_come_back(case):
    lengths, capacity = case
    rng = np.random.default_rng(len(lengths))
    sequences = [rng.integers(0, 100, length) for length in lengths]  # 0 is a token too
    packed, places = collate.pack(sequences, capacity)
    used, live = np.zeros(packed["tokens"].shape, bool), np.zeros(packed["tokens"].shape, bool)
    for index, row, column, segment in places:
        size = lengths[index]
        cells = row, slice(column, column + size)
        assert not used[cells].any()
        used[cells], live[row, column : column + size - 1] = True, True
        np.testing.assert_array_equal(packed["tokens"][cells], sequences[index])
        np.testing.assert_array_equal(packed["targets"][cells], [*sequences[index][1:], 0])
        np.testing.assert_array_equal(packed["positions"][cells], range(size))
        assert (packed["segments"][cells] == segment).all()
        assert (packed["segments"][row] == segment).sum() == size  # its own number within the row
    assert sorted(place[0] for place in places) == list(range(len(lengths)))
    for name, values in packed.items():
        assert not values[~used].any(), name
    np.testing.assert_array_equal(collate.live(packed), live)


def test_stacked_rows_are_padded_and_counted():
    packed = {"tokens": np.arange(1, 11).reshape(5, 2)}
    stacked, count = collate.stack(packed, microbatches=4, rows=2)
    assert stacked["tokens"].shape == (4, 2, 2) and count == 3
    flat = stacked["tokens"].reshape(8, 2)
    np.testing.assert_array_equal(flat[:5], packed["tokens"])
    assert not flat[5:].any()
    with pytest.raises(UserError, match="5 packed rows need 3 microbatches of 2 rows, the step has 2"):
        collate.stack(packed, microbatches=2, rows=2)


@quick
@given(st.integers(0, 5), st.integers(1, 9), st.integers(0, 40), st.lists(st.integers(1, 12), max_size=5))
def test_the_feed_is_a_function_of_the_position(seed, size, start, counts):
    """However the steps are cut, and wherever a run resumes, the same examples come in the same order."""
    whole = feed.take(seed, start, sum(counts), size)
    parts = [feed.take(seed, start + sum(counts[:i]), count, size) for i, count in enumerate(counts)]
    np.testing.assert_array_equal(whole, np.concatenate([np.zeros(0, np.int64), *parts]))


def test_every_epoch_is_another_permutation():
    size, epochs = 50, 4
    orders = feed.take(3, 0, epochs * size, size).reshape(epochs, size)
    np.testing.assert_array_equal(np.sort(orders, 1), np.tile(np.arange(size), (epochs, 1)))
    assert len({tuple(order) for order in orders}) == epochs
    assert (feed.take(4, 0, size, size) != orders[0]).any()


@quick
@given(st.integers(1, 9), st.integers(0, 40), st.integers(1, 12))
def test_a_rollout_asks_nothing_twice(size, start, count):
    begin = feed.whole(start, count, size)
    if count > size:
        assert begin == start
    else:
        assert len(set(feed.take(3, begin, count, size))) == count
        assert begin == start or (begin % size == 0 and start < begin < start + count)  # the rest of an epoch


rollouts = st.tuples(st.integers(0, 2**31), st.integers(1, 24), st.integers(3, 16))


@quick
@given(rollouts, st.integers(1, 4), st.integers(0, 40))
def test_every_rollout_fits_its_microbatches(rollout, rows, spare):
    """Raises nothing for any lengths: the bound on the number of microbatches holds. Gathering undoes spreading, and a
    value stands where its token is the target."""
    (_, sequences, window), held = rollout, small.experience(*rollout)
    shape = Shape(rows=rows, length=window + spare)
    members = held.order[: max(sequences // 2, 1)]
    packed, count, places = rows_of(held, members, shape)
    assert packed["tokens"].any((1, 2)).sum() == count <= shape.microbatches(len(members), window)

    grid = packed["tokens"].shape
    np.testing.assert_array_equal(
        gather(held, members, places, spread(held, members, places, held.sampled, grid))[members], held.sampled[members]
    )
    tokens = spread(held, members, places, held.tokens.astype(np.float32), grid)
    np.testing.assert_array_equal(tokens[tokens > 0], packed["targets"][tokens > 0])
    assert (tokens > 0).sum() == (held.ends - held.starts)[members].sum()  # every response token, and no prompt


def test_the_bound_on_microbatches_is_reached():
    """Sequences as long as the window, two to a row: no smaller bound would do."""
    held = small.experience(0, 9, 8)
    held = held.replace(ends=np.full(9, 8, np.int32), tokens=np.ones((9, 8), np.int32))
    _, count, _ = rows_of(held, np.arange(9), Shape(rows=2, length=17))
    assert count == Shape(rows=2, length=17).microbatches(9, 8) == 3
