"""From sequences on the host to packed rows on the mesh.

Every process computes the same arrays and builds the shards that it can address, so one process and many read the same
batch. Packing is best fit; a batch has a static shape [M, B, T] and a count of the microbatches that hold tokens.
"""

from collections.abc import Sequence

import jax
import numpy as np

from r1jax.base.fields import require
from r1jax.data import packing
from r1jax.model.layout import Layout
from r1jax.model.lm import Rows

Packed = dict[str, np.ndarray]


def pack(
    sequences: Sequence[Sequence[int]], length: int, together: int = 1
) -> tuple[Packed, list[tuple[int, int, int, int]]]:
    """Packs whole sequences into rows -> (the arrays of `Rows`, each [rows, length] int32; where each sequence lies).

    together: so many sequences that follow each other, 2 for pairs, stay neighbours in one row."""
    sizes = [len(sequence) for sequence in sequences]
    units = [sum(sizes[first : first + together]) for first in range(0, len(sizes), together)]
    rows = [[unit * together + i for unit in row for i in range(together)] for row in packing.best_fit(units, length)]
    places = packing.layout(rows, sizes)
    shape = (len(rows), length)
    fill = lambda values: packing.fill(shape, places, values, np.int32)  # noqa: E731
    segment = {index: number for index, _, _, number in places}
    packed = {
        "tokens": fill(sequences),
        "positions": fill([range(size) for size in sizes]),
        "segments": fill([np.full(size, segment[i]) for i, size in enumerate(sizes)]),
        "targets": fill([sequence[1:] for sequence in sequences]),
    }
    return packed, places


def stack(packed: Packed, microbatches: int, rows: int) -> tuple[Packed, int]:
    """Rows [R, T] -> ([microbatches, rows, T], the number of microbatches that hold any); the rest is padding."""
    have = len(next(iter(packed.values())))
    count = -(-have // rows)
    require(
        count <= microbatches,
        f"{have} packed rows need {count} microbatches of {rows} rows, the step has {microbatches}; raise them",
    )
    pad = microbatches * rows - have
    return {k: np.pad(a, ((0, pad), (0, 0))).reshape(microbatches, rows, -1) for k, a in packed.items()}, count


def put(array: np.ndarray, spec: jax.P) -> jax.Array:
    """A host array that every process holds, as a global array on the mesh in force."""
    sharding = jax.NamedSharding(jax.sharding.get_mesh(), spec)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def put_rows(packed: Packed, layout: Layout) -> Rows:
    """The four arrays of `Rows`, [..., B, T] with any axes before, on the mesh."""
    return Rows(
        **{
            name: put(packed[name], spec(packed[name], layout))
            for name in ("tokens", "positions", "segments", "targets")
        }
    )


def spec(array: np.ndarray, layout: Layout) -> jax.P:
    """Where an array [..., B, T] lies."""
    return jax.P(*(None,) * (array.ndim - 2), *layout.BT)


def live(packed: Packed) -> np.ndarray:
    """Where there is a target, bool, of the shape of the arrays: the same sequence goes on. (A published tokenizer's id
    0 is a token like any other.)"""
    here = packed["segments"]
    after = np.pad(here[..., 1:], [(0, 0)] * (here.ndim - 1) + [(0, 1)])
    return (here != 0) & (here == after)
