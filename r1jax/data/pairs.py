"""Pairs of responses to one question, of which one is clearly better, with lengths matched over the whole set.

A judge that sees longer responses win more often learns to like length. So (DeepSeek-R1, 2501.12948, section 3.1) the
chosen and the rejected responses are about equally long in the mean. The paper does not say how; here, question by
question, the pair is taken that brings the sum of all length differences nearest to zero, and in the end those pairs
are given up that lean most to the side that is still too long.
"""

from collections.abc import Sequence

import numpy as np


def choose(
    questions: Sequence[str],
    qualities: Sequence[float],
    lengths: Sequence[int],
    *,
    margin: float,
    tolerance: float | None,
    seed: int,
) -> list[tuple[int, int]]:
    """(chosen, rejected) indices of samples, at most one pair a question, in the order of the questions.

    questions: what tells them apart. margin: the qualities of a pair differ by more. tolerance: how far the two sides'
    mean lengths may lie apart, as a share of the longer one; None: lengths do not matter, the pair is drawn.
    """
    members: dict[str, list[int]] = {}
    for index, question in enumerate(questions):
        members.setdefault(question, []).append(index)
    groups = list(members.values())
    rng = np.random.default_rng(seed)
    found: dict[int, tuple[int, int]] = {}
    total = 0
    for g in rng.permutation(len(groups)):
        every = [(i, j) for i in groups[g] for j in groups[g] if qualities[i] - qualities[j] > margin]
        if every:
            drawn = [every[k] for k in rng.permutation(len(every))]  # of equally good ones, any
            apart = [lengths[i] - lengths[j] for i, j in drawn]
            best = 0 if tolerance is None else int(np.argmin(np.abs(total + np.array(apart))))
            found[int(g)] = drawn[best]
            total += apart[best]
    kept = sorted(found)
    if tolerance is not None:
        kept = _matched(kept, [(lengths[found[g][0]], lengths[found[g][1]]) for g in kept], tolerance)
    return [found[g] for g in kept]


def _matched(kept: list[int], lengths: list[tuple[int, int]], tolerance: float) -> list[int]:
    """`kept` without the pairs that lean most to the longer side, so few that the sides match."""
    chosen, rejected = (sum(side) for side in zip(*lengths, strict=True)) if lengths else (0, 0)
    lean = 1 if chosen > rejected else -1
    given_up = set()
    for k in sorted(range(len(kept)), key=lambda k: -lean * (lengths[k][0] - lengths[k][1])):
        if abs(chosen - rejected) <= tolerance * max(chosen, rejected):
            break
        given_up.add(k)
        chosen, rejected = chosen - lengths[k][0], rejected - lengths[k][1]
    return [group for k, group in enumerate(kept) if k not in given_up]
