"""Which kinds of questions a rollout asks, and how many of each."""

from collections.abc import Sequence
from dataclasses import dataclass

from r1jax.base.fields import at_least, check, require


@dataclass(frozen=True, kw_only=True)
class Share:
    """A domain's part of the questions, in proportion to its `weight`. last: it is asked in so many last optimizer
    steps only; None: in all (DeepSeek-R1, 2501.12948, section 3.2.2: general questions in the last 400 of 1,700)."""

    domain: str
    weight: float = 1.0
    last: int | None = None

    def __post_init__(self):
        check(self)
        at_least(1, self, "last")
        require(self.weight > 0, f"mixture.Share.weight of {self.domain!r} is {self.weight}; it must be positive")


def counts(shares: Sequence[Share], questions: int, step: int, steps: int) -> dict[str, int]:
    """How many of the questions of a rollout that begins after `step` of `steps` optimizer steps are of each domain:
    the shares of those that enter, rounded so that the sum is right (largest remainder)."""
    entering = [share for share in shares if share.last is None or step >= steps - share.last]
    require(bool(entering), f"no mixture.Share enters at step {step}; one of them must have last = None")
    whole = sum(share.weight for share in entering)
    exact = [questions * share.weight / whole for share in entering]
    floor = [int(number) for number in exact]
    order = sorted(range(len(exact)), key=lambda i: floor[i] - exact[i])
    for i in order[: questions - sum(floor)]:
        floor[i] += 1
    return {share.domain: count for share, count in zip(entering, floor, strict=True)}
