"""Which examples a step reads: a pure function of (seed, position), so a resumed run has no iterator state to restore.

Every epoch is a fresh permutation; a batch may straddle two epochs.
"""

import functools

import numpy as np


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(size)


def whole(start: int, count: int, size: int) -> int:
    """The first position from `start` on at which `count` examples lie in one epoch, so that none comes twice; where an
    epoch is smaller than that, `start`."""
    left = size - start % size
    return start if count <= left or count > size else start + left


def take(seed: int, start: int, count: int, size: int) -> np.ndarray:
    """Indices [count] into a data set of `size` examples: those that stand at `start`, `start + 1`, ... of the feed."""
    positions = np.arange(start, start + count)
    return np.array([_order(seed, int(position) // size, size)[position % size] for position in positions], np.int64)
