"""Packing: several sequences in one row of fixed length, told apart by segment ids.

Best fit: a sequence goes to the fullest row that still holds it (the DeepSeek-R1 supplement B.1 packs its training
batches so). Any two rows together are then fuller than one row, so the number of rows is below twice the least.
"""

import bisect
from collections.abc import Sequence

import numpy as np

from r1jax.base.fields import require


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """The rows, each a list of indices into `lengths`; the longest sequence is placed first.

    Raises UserError where a sequence is longer than `capacity`.
    """
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}  # free tokens -> rows with exactly that many
    rooms: list[int] = []  # the keys of by_room, sorted
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = int(lengths[index])
        require(
            length <= capacity, f"a sequence of {length} tokens does not fit a row of {capacity}; raise the row length"
        )
        place = bisect.bisect_left(rooms, length)
        if place == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[place]
            row = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[place]
        rows[row].append(index)
        left = room - length
        if left not in by_room:
            by_room[left] = []
            bisect.insort(rooms, left)
        by_room[left].append(row)
    return rows


def layout(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """(sequence, row, first column, segment id from 1) of every packed sequence, row by row."""
    places = []
    for row, members in enumerate(rows):
        column = 0
        for segment, index in enumerate(members, start=1):
            places.append((index, row, column, segment))
            column += int(lengths[index])
    return places


def fill(shape: tuple[int, int], places: Sequence[tuple[int, int, int, int]], values: Sequence, dtype) -> np.ndarray:
    """An array of `shape` [rows, length] of zeros that holds `values[sequence]` where `layout` placed the sequence."""
    out = np.zeros(shape, dtype)
    for index, row, column, _ in places:
        value = values[index]
        out[row, column : column + len(value)] = value
    return out
