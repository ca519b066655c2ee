"""Checkpoints: what is saved comes back, on any mesh; a run killed in mid-save loses nothing that was committed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.base.checkpoint import Store
from r1jax.base.fields import UserError
from r1jax.base.mesh import Mesh


class Moments(NamedTuple):
    mu: dict
    count: jax.Array


@flax.struct.dataclass
class State:
    step: jax.Array
    params: dict
    opt: tuple


def init(key: jax.Array) -> State:
    """A tree of dataclass, dict, list, tuple, NamedTuple and nothing, sharded over data, fsdp and tensor."""
    w_FD = jax.random.normal(key, (64, 128), out_sharding=jax.P(("data", "fsdp"), "tensor"))
    params = {"w": w_FD, "layers": [jnp.arange(8.0), jnp.ones(3, jnp.bfloat16)]}
    moments = Moments(jax.tree.map(lambda x: x.astype(jnp.float32) * 2, params), jnp.int32(7))
    return State(jnp.int32(5), params, (moments, (), None))


def make(seed: int = 0) -> State:
    return jax.jit(init)(jax.random.key(seed))


def like() -> State:
    return jax.eval_shape(init, jax.random.key(0))


def equal(a, b) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.fixture
def mesh():
    with jax.set_mesh(Mesh(data=2, fsdp=2, tensor=2).make()):
        yield


def saved(folder: Path, step: int = 3) -> State:
    store, state = Store(folder), make()
    rollout = {"tokens": np.arange(6, dtype=np.int32).reshape(2, 3), "reward": np.ones(2, np.float32)}
    store.save(step, {"state": state, "rollout": rollout, "router": {}}, {"key": [1, 2], "mesh": "2 x 2"})
    store.close()
    return state


def test_what_is_saved_comes_back(tmp_path, mesh):
    state = saved(tmp_path)
    store = Store(tmp_path)
    assert store.steps() == [3] and store.latest() == 3
    arrays, host = store.restore(3, {"state": like(), "router": {}})
    assert host == store.host(3) == {"key": [1, 2], "mesh": "2 x 2"}
    assert arrays.keys() == {"state", "router"} and arrays["router"] == {}
    assert equal(arrays["state"], state) and isinstance(arrays["state"].opt[0], Moments)
    assert arrays["state"].params["layers"][1].dtype == jnp.bfloat16
    rollout = store.restore(3, {"rollout": {"tokens": np.empty((2, 3), np.int32), "reward": np.empty(2, np.float32)}})
    assert type(rollout[0]["rollout"]["tokens"]) is np.ndarray
    assert rollout[0]["rollout"]["tokens"].tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize("other", [Mesh(fsdp=8), Mesh(fsdp=2, tensor=4), Mesh(data=4, context=2)])
def test_another_mesh(tmp_path, other):
    with jax.set_mesh(Mesh(data=2, fsdp=2, tensor=2).make()):
        state = saved(tmp_path)
    with jax.set_mesh(other.make()) as _:
        restored = Store(tmp_path).restore(3, {"state": like()})[0]["state"]
        assert restored.params["w"].sharding.mesh.shape["fsdp"] == other.fsdp
        assert restored.params["w"].sharding.spec == jax.P(("data", "fsdp"), "tensor")
    assert equal(restored, state)


def test_reading_creates_nothing(tmp_path):
    store = Store(tmp_path / "none")
    assert store.steps() == [] and store.latest() is None
    with pytest.raises(UserError, match="no checkpoint of step 4 in .*none: no checkpoint is there"):
        store.restore(4, {"state": {}})
    store.wait()
    store.close()
    assert not (tmp_path / "none").exists()


def test_the_newest_and_the_best_are_kept(tmp_path, mesh):
    rewards = {1: 0.1, 2: 0.9, 3: 0.2, 4: 0.3, 5: 0.25}
    for steps in ([1, 2, 3], [4, 5]):  # the metrics outlive the process
        store = Store(tmp_path, latest=2, best=1, metric="reward")
        for step in steps:
            store.save(step, {"policy": jnp.zeros(3)}, {}, {"reward": rewards[step]})
        store.close()
    assert Store(tmp_path).steps() == [2, 4, 5]


def test_what_the_newest_build_on_is_kept(tmp_path):
    bases = {1: None, 2: None, 3: 3, 4: 3, 5: 3, 6: 6, 7: 6}
    kept = {4: [3, 4], 5: [3, 4, 5], 6: [3, 5, 6], 7: [6, 7]}
    for steps in ([1, 2, 3, 4], [5], [6, 7]):  # and the next process knows it
        store = Store(tmp_path, builds_on="base")
        host = {}
        for step in steps:
            host |= {"base": bases[step]}
            store.save(step, {"policy": jnp.full(3, step)}, host)
            host |= {"base": 1}  # the caller's own from here on
            store.wait()
            assert step not in kept or store.steps() == kept[step]
            assert store.host(step) == {"base": bases[step]}
        store.close()


@pytest.mark.parametrize(
    "change, said",
    [
        (
            lambda s: s.replace(params=s.params | {"w": s.params["w"].update(shape=(64, 96))}),
            "params/w is stored as (64, 128), this run wants (64, 96)",
        ),
        (
            lambda s: s.replace(params=s.params | {"v": s.step}),
            "is of another model or optimizer: it lacks params/v",
        ),
        (
            lambda s: s.replace(opt=()),
            "it has in addition opt/0/count, opt/0/mu/layers/0, opt/0/mu/layers/1 and 1 more",
        ),
    ],
)
def test_another_tree_is_named(tmp_path, mesh, change, said):
    saved(tmp_path)
    with pytest.raises(UserError) as error:
        Store(tmp_path).restore(3, {"state": change(like())})
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_missing_step_or_item_is_named(tmp_path, mesh):
    saved(tmp_path)
    with pytest.raises(UserError, match="no checkpoint of step 4 in .*: steps 3 are there"):
        Store(tmp_path).restore(4, {"state": like()})
    with pytest.raises(UserError, match="has no item 'optimizer'; it has host, rollout, state"):
        Store(tmp_path).restore(3, {"optimizer": like()})


def test_a_checkpoint_cut_short_is_one_line(tmp_path, mesh, capfd):
    """Every file that the step's state needs, emptied and halved: either nothing is lost or one line says so."""
    state = saved(tmp_path)
    files = [path for path in (tmp_path / "3").rglob("*") if path.is_file() and path.parent.name != "rollout"]
    unreadable = 0
    for path in files:
        whole = path.read_bytes()
        for kept in (0, len(whole) // 2):
            path.write_bytes(whole[:kept])
            try:
                assert equal(Store(tmp_path).restore(3, {"state": like()})[0]["state"], state)
            except UserError as error:
                unreadable += 1
                assert str(error).startswith(f"checkpoint {tmp_path / '3'}") and "may have been cut short" in str(error)
                assert "\n" not in str(error)
        path.write_bytes(whole)
    assert unreadable >= 8
    assert equal(Store(tmp_path).restore(3, {"state": like()})[0]["state"], state)
    assert "Traceback" not in capfd.readouterr().err


SAVER = """
import sys
import numpy as np
from r1jax.base.checkpoint import Store
store = Store(sys.argv[1], latest=100)
start = store.latest() or 0
for step in range(start + 1, start + 100):
    store.save(step, {"policy": {"w": np.random.default_rng(step).random(1_000_000)}}, {"step": step})
"""


def test_kill_in_mid_save_keeps_what_was_committed(tmp_path):
    committed = []
    for _ in range(3):
        saver = subprocess.Popen([sys.executable, "-c", SAVER, tmp_path], env=os.environ | {"XLA_FLAGS": ""})
        deadline = time.monotonic() + 60
        while len(Store(tmp_path).steps()) < len(committed) + 2 or not list(tmp_path.glob("*tmp*")):
            assert saver.poll() is None and time.monotonic() < deadline
        saver.send_signal(signal.SIGKILL)
        saver.wait()
        steps = Store(tmp_path).steps()
        assert steps[: len(committed)] == committed and steps == list(range(1, len(steps) + 1))
        for step in steps[-2:]:
            arrays, host = Store(tmp_path).restore(step, {"policy": {"w": np.empty(1_000_000)}})
            assert host == {"step": step}
            assert np.array_equal(arrays["policy"]["w"], np.random.default_rng(step).random(1_000_000))
        committed = steps
    store = Store(tmp_path, latest=100)
    store.save(committed[-1] + 1, {"policy": {"w": np.ones(3)}}, {})
    store.close()
    assert store.steps() == [*committed, committed[-1] + 1] and not list(tmp_path.glob("*tmp*"))
