"""Rewards that a user might write, well or badly, in a module that workers import; no jax here."""

import dataclasses
import os
import signal
import time

from r1jax.reward.rules import Score


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moody:
    """Does what the response says: dies, hangs, complains, or pays."""

    weight: float = 1.0
    name: str = "moody"

    def score(self, question, response):
        match response.text.strip():
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "leave":
                os._exit(0)
            case "hang":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600)
            case "complain":
                raise LookupError("a bug in a reward")
        return Score(1.0)


class Stubborn(Exception):
    """An exception that does not come back from its pickle."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def stubborn():
    raise Stubborn(1, 2)


def modules() -> list[str]:
    import sys

    return sorted(sys.modules)
