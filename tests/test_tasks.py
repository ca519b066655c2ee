"""Tasks: what stages ask of them, and the data sets of a user's own files."""

import dataclasses

import pytest

from r1jax.base.fields import UserError, check
from r1jax.data.questions import Question, Source, Task
from r1jax.data.world import World


@dataclasses.dataclass(frozen=True, kw_only=True)
class Double:
    """A user's own task: nothing to inherit from, nothing to register, one method."""

    most: int = 9

    def questions(self, split, folder):
        return [Question(n, f"2*{n}?", str(2 * n), language="en", difficulty=1) for n in range(self.most)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Holder:
    asked: Task = Double()
    read: Source = World()

    def __post_init__(self):
        check(self)


def test_one_method_makes_a_task_and_a_source_says_more():
    assert Holder(asked=World()).asked == World()
    with pytest.raises(UserError, match=r"Holder.read = Double\(most=9\) is Double, wanted Source"):
        Holder(read=Double())
    with pytest.raises(UserError, match=r"Holder.asked = 'Double' is str, wanted Task"):
        Holder(asked="Double")
