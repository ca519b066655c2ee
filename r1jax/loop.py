"""What the training stages share: resuming, delayed metrics, saving, stopping, tracing.

Metrics of step n are read when step n + 1 is under way, so the device never waits for the host.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence

import jax

from r1jax.base.checkpoint import Store
from r1jax.base.fields import UserError, at_least, check, require
from r1jax.base.mesh import is_main
from r1jax.base.metrics import Journal
from r1jax.base.place import Place
from r1jax.base.progress import Progress
from r1jax.base.stop import Stop, Stopped
from r1jax.model import cost
from r1jax.model.config import Transformer

SKIPS = 3  # non-finite gradients in a row that end a run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saving:
    """A checkpoint every `every` steps, of which the `latest` newest stay, and what they build on."""

    every: int
    latest: int = 2

    def __post_init__(self):
        check(self)
        at_least(1, self, "every", "latest")


class Loop:
    """One stage's way through its steps.

    with Loop(place, steps, saving) as loop:
        found = loop.restore(like)                    # (step, arrays, host) of the last checkpoint, or None
        while step < steps:
            state, metrics = ...
            step += 1
            loop.record(step, metrics, shown=("loss",))
            loop.checkpoint(step, arrays, host)       # saves where one is due; raises Stopped where a stop was asked
            for
    """

    def __init__(self, place: Place, steps: int, saving: Saving):
        self.place, self.steps, self.saving = place, steps, saving
        self.store = Store(place.folder / "checkpoints", latest=saving.latest, builds_on="reference")
        self.journal = Journal(place.folder)
        self._stop, self._progress = Stop(), Progress(place.name, steps)
        self._pending: Callable[[], None] | None = None
        self._shown: dict[str, float] = {}  # a figure of the rollout stays on show until the next one
        self._saved: int | None = None
        self._first: int | None = None
        self._tracing = False
        self._clock = time.monotonic()

    def __enter__(self) -> "Loop":
        self._stop.__enter__()
        self._progress.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.flush()
        self._trace_until(None)
        self.store.close()
        self.journal.close()
        self._progress.__exit__(*error)
        self._stop.__exit__(*error)

    def restore(self, like: dict) -> tuple[int, dict, dict] | None:
        """The last checkpoint, laid out as `like`; the journal is cut back to its step. Says so in one line where the
        machine is another than the one that wrote it."""
        step = self.store.latest()
        if step is not None:
            self._check(step)
        arrays, host = self.store.restore(step, like) if step is not None else ({}, {})
        self.place.record()
        self.journal.cut(step)
        if step is None:
            return None
        before, now = host["machine"], _machine()
        changes = [f"{key} was {before.get(key)}, is now {now[key]}" for key in now if before.get(key) != now[key]]
        if changes and is_main():
            print(f"{self.place.name}, step {step}: {'; '.join(changes)}: from here on equal up to rounding only")
        self._saved = step
        self._progress.update(step)
        return step, arrays, host

    def _check(self, step: int) -> None:
        """UserError unless the stage can go on from this step's checkpoint."""
        path = f"checkpoint {self.store.folder / str(step)}"
        require(
            step <= self.steps,
            f"{path} is beyond this run's end at step {self.steps}: ask for {step} steps or more, or remove "
            f"{self.place.folder} to begin the stage again",
        )
        host = self.store.host(step)
        require(
            host.get("step") == step and isinstance(host.get("machine"), dict),
            f"{path} does not say which step of which machine it is: remove that step's folder to go on from the step "
            "before it",
        )
        self.journal.check(step)

    def record(self, step: int, metrics: dict, shown: Sequence[str], tokens: int | None = None) -> None:
        """Metrics of a step under way: written when the next one is recorded. tokens: for `time/tokens_per_second`."""
        before, self._pending = self._pending, lambda: self._write(step, metrics, shown, tokens)
        if before is not None:
            before()
        self._trace_until(step)

    def flush(self) -> None:
        before, self._pending = self._pending, None
        if before is not None:
            before()

    def checkpoint(self, step: int, arrays: Callable[[], dict], host: dict, due: bool = False) -> None:
        """Saves where a checkpoint is due or a stop was asked for; in the latter case raises Stopped.

        host["reference"], where it is there, names a step whose checkpoint is still needed."""
        stop = self._stop.asked() and step < self.steps
        if stop or due or step == self.steps or step % self.saving.every == 0:
            self.flush()
            if step != self._saved:
                self.store.save(step, arrays(), host | {"machine": _machine()})
                self._saved = step
        if stop:
            self.store.wait()
            raise Stopped(f"{self.place.name}, step {step}")

    def _write(self, step: int, metrics: dict, shown: Sequence[str], tokens: int | None) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        now = time.monotonic()
        values["time/step"], self._clock = now - self._clock, now
        if tokens is not None:
            values["time/tokens_per_second"] = tokens / values["time/step"]
        self.journal.write(step, values)
        self._shown |= {name.rpartition("/")[2]: values[name] for name in shown if name in values}
        self._progress.update(step, **self._shown)
        if values.get("skipped_in_a_row", 0) >= SKIPS:
            raise UserError(
                f"{self.place.name}: the gradient was not finite in {SKIPS} steps in a row, the last one step {step}; "
                "lower the learning rate or tighten AdamW.clip, and look at metrics.jsonl for where it grew"
            )

    def _trace_until(self, step: int | None) -> None:
        """Traces `place.profile` steps after the first of this process, which compiles; None ends a trace."""
        if self.place.profile is None or not is_main():
            return
        if step is not None and self._first is None:
            self._first = step
            jax.profiler.start_trace(str(self.place.folder / "profile"))
            self._tracing = True
        elif self._tracing and (step is None or step - self._first >= self.place.profile):
            jax.profiler.stop_trace()
            self._tracing = False


def spent(cfg: Transformer, records: Sequence[dict]) -> dict[str, float]:
    """What a training stage's summary says of its work, from its metrics: tokens drawn and trained on, without padding;
    model FLOPs of sampling, scoring and updates, without recomputation and the judges'."""

    total = lambda key: sum(record.get(key, 0.0) for record in records)  # noqa: E731
    flops = cost.forward(cfg, total("forward/tokens"), total("forward/keys"))
    flops += 3 * cost.forward(cfg, total("update/tokens"), total("update/keys"))
    drawn = sum(record.get("rollout/tokens", 0.0) * record.get("rollout/tries", 1.0) for record in records)
    counts = {"tokens_drawn": int(drawn)} if drawn else {}
    return counts | {"tokens_trained": int(total("update/tokens")), "flops": float(round(flops))}


def _machine() -> dict[str, str | int]:
    """What the bits of a run depend on beside its config, as JSON."""
    mesh = {axis: size for axis, size in jax.sharding.get_mesh().shape.items() if size > 1}
    return {
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "processes": jax.process_count(),
        "mesh": " x ".join(f"{axis} {size}" for axis, size in mesh.items()) or "one device",
    }
