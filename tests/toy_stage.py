"""A small real stage for the tests of the command line: adds `add` to a number, a step at a time."""

import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from r1jax.base.checkpoint import Store
from r1jax.base.fields import check, require
from r1jax.base.mesh import Mesh
from r1jax.base.metrics import Journal
from r1jax.base.place import Place
from r1jax.base.progress import Progress
from r1jax.base.stop import Stop, Stopped


@dataclass(frozen=True, kw_only=True)
class Adder:
    """Something to be built inside a Run, under a scope or not."""

    add: float = 1.0

    def __post_init__(self):
        check(self)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Counts `steps` steps, waiting `seconds` at each."""

    steps: int
    adder: Adder
    seconds: float = 0.0
    note: str = ""
    mesh: Mesh = Mesh(data=8)

    def __post_init__(self):
        check(self)
        require(self.steps >= 1, f"toy_stage.Run.steps = {self.steps}, wanted 1 or more")


def describe(cfg: Run, place: Place) -> list[str]:
    return [
        f"{cfg.steps} steps of {cfg.adder.add}",
        f"mesh: {cfg.mesh}",
        f"note: {cfg.note}",
        f"folder: {place.folder}",
    ]


def run(cfg: Run, place: Place) -> None:
    store, journal = Store(place.folder / "checkpoints"), Journal(place.folder)
    start = store.latest() or 0
    with jax.set_mesh(cfg.mesh.make()), Stop() as stop, Progress(place.name, cfg.steps) as progress:
        if start:
            value = store.restore(start, {"policy": jax.eval_shape(_zero)})[0]["policy"]
        else:
            value = jax.jit(_zero)()
        place.record()
        journal.cut(start)
        for step in range(start + 1, cfg.steps + 1):
            value = jax.jit(jnp.add)(value, cfg.adder.add)
            time.sleep(cfg.seconds)
            journal.write(step, {"value": value})
            progress.update(step, value=float(value))
            store.save(step, {"policy": value}, {"step": step})
            if stop.asked():
                store.close()
                raise Stopped(f"{place.name}, step {step}")
    store.close()
    journal.close()
    place.finish({"steps": cfg.steps, "value": float(value)})


def _zero() -> jax.Array:
    return jnp.zeros(())
