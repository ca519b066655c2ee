"""Stopping in good order: SIGTERM (preemption) and Ctrl-C ask, the loop saves and raises `Stopped`."""

import signal

from r1jax.base.mesh import agree


class Stopped(Exception):
    """The stage has saved and stopped because it was asked to; str() says where, such as 'pretrain, step 120'."""


class Stop:
    """While it is entered, SIGTERM and SIGINT only set a flag; a second SIGINT raises KeyboardInterrupt.

    A signal that came too late to be asked about is passed on at the end to the handler before; one that a Stop around
    this one has had counts here too.

    with Stop() as stop:
        for step in ...:
            if stop.asked():
                save(); raise Stopped(f"{name}, step {step}")
    """

    def __init__(self):
        self._had: int | None = None

    def __enter__(self) -> "Stop":
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        around = getattr(self._before[signal.SIGTERM], "__self__", None)
        self._around = around if isinstance(around, Stop) else None
        if self._around:
            self._had = self._had or self._around._had
        return self

    def __exit__(self, kind, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._had is not None and kind is None:
            if self._around:
                self._around._had = self._around._had or self._had
            else:
                signal.raise_signal(self._had)

    def asked(self) -> bool:
        """Whether any process was asked to stop: the same answer on all of them, and all of them must call it."""
        return agree(self._had is not None)

    def _ask(self, number: int, _) -> None:
        if self._had is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._had = number
