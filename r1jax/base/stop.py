"""Stopping in good order: SIGTERM (preemption) and Ctrl-C ask, the loop saves and raises `Stopped`."""

import signal

from r1jax.base.mesh import agree


class Stopped(Exception):
    """The stage has saved and stopped because it was asked to; str() says where, such as 'pretrain, step 120'."""


class Stop:
    """While it is entered, SIGTERM and SIGINT only set a flag; a second SIGINT raises KeyboardInterrupt.

    with Stop() as stop:
        for step in ...:
            if stop.asked():
                save(); raise Stopped(f"{name}, step {step}")
    """

    def __init__(self):
        self._flag = False

    def __enter__(self) -> "Stop":
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def asked(self) -> bool:
        """Whether any process was asked to stop: the same answer on all of them, and all of them must call it."""
        return agree(self._flag)

    def _ask(self, number: int, _) -> None:
        if self._flag and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._flag = True
