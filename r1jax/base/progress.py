"""One line that tells a person how a stage is getting on: a live bar, or plain lines where there is no terminal."""

import sys
import time

from rich import progress as bars

from r1jax.base.mesh import is_main

PLAIN_EVERY = 5.0  # seconds between plain lines


class Progress:
    """with Progress('reinforce', 120) as progress: progress.update(step, reward=0.4, **{'tokens/s': 5200})

    Only process 0 shows anything. The first update is where the stage starts from, so a resumed stage starts there.
    total: steps in all, None where that is not known.
    """

    def __init__(self, name: str, total: int | None):
        self.name, self.total = name, total
        self._bar: bars.Progress | None = None
        self._task = self._first = None
        self._shown, self._unsaid = 0.0, ""

    def __enter__(self) -> "Progress":
        if is_main() and sys.stdout.isatty():
            self._bar = bars.Progress(
                "{task.description}",
                bars.BarColumn(24),
                bars.MofNCompleteColumn(),
                bars.TimeRemainingColumn(compact=True),
                "{task.fields[shown]}",
                speed_estimate_period=600,  # steps may take minutes
            ).__enter__()
        return self

    def update(self, step: int, **shown: float | str) -> None:
        """`step` steps are done; `shown` are the figures beside the bar."""
        if not is_main():
            return
        text = "  ".join(f"{key} {_brief(value)}" for key, value in shown.items())
        if self._bar is not None:
            if self._task is None:
                self._task = self._bar.add_task(self.name, total=self.total, completed=step, shown=text)
            self._bar.update(self._task, completed=step, shown=text)
            return
        now = time.monotonic()
        self._first = self._first or (step, now)
        of = "" if self.total is None else f"/{self.total}{self._left(step, now)}"
        self._unsaid = f"{self.name} {step}{of}  {text}".rstrip()
        if now - self._shown >= PLAIN_EVERY:
            self._say(now)

    def __exit__(self, *error) -> None:
        if self._bar is not None:
            self._bar.__exit__(*error)
        elif self._unsaid:
            self._say(time.monotonic())

    def _say(self, now: float) -> None:
        print(self._unsaid, flush=True)
        self._shown, self._unsaid = now, ""

    def _left(self, step: int, now: float) -> str:
        first, start = self._first
        if step == first or step >= self.total:
            return ""
        seconds = round((now - start) / (step - first) * (self.total - step))
        return f"  {seconds // 60}:{seconds % 60:02d} left"


def _brief(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
