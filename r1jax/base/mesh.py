"""The device mesh of a run, and what all its processes must agree on.

Every axis may be 1. `data` is the outermost axis and the only one that may cross slices (groups of devices joined by
the slow network). The mesh is Explicit: shardings are part of the types; `jax.set_mesh(mesh.make())` puts it in force.
"""

import dataclasses
import os
from dataclasses import dataclass
from typing import Literal

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType

from r1jax.base.fields import UserError, at_least, check, require

AXES = ("data", "fsdp", "expert", "tensor", "context")
EXPLICIT = (AxisType.Explicit,) * len(AXES)


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """How many devices lie along each axis; `processes='auto'` joins the processes of a pod or cluster first.

    rollout: the same devices arranged for sampling, in the order of AXES; None: as for training. A layout that is good
    for the update gathers weights, which is hopeless for decoding a token.
    """

    data: int = 1
    fsdp: int = 1
    expert: int = 1
    tensor: int = 1
    context: int = 1
    rollout: tuple[int, int, int, int, int] | None = None
    processes: Literal["one", "auto"] = "one"

    def __post_init__(self):
        check(self)
        at_least(1, self, *AXES)
        if self.rollout is not None:
            require(
                min(self.rollout) >= 1 and int(np.prod(self.rollout)) == self.size,
                f"Mesh.rollout = {self.rollout} has {int(np.prod(self.rollout))} devices, the mesh has {self.size}",
            )

    @property
    def for_rollout(self) -> "Mesh":
        """The mesh on which responses are sampled."""
        shape = self.shape if self.rollout is None else self.rollout
        return dataclasses.replace(self, rollout=None, **dict(zip(AXES, shape, strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Devices along each of AXES."""
        return tuple(getattr(self, axis) for axis in AXES)

    @property
    def size(self) -> int:
        """Devices in all."""
        return int(np.prod(self.shape))

    def __str__(self) -> str:
        return " x ".join(f"{axis} {n}" for axis, n in zip(AXES, self.shape, strict=True) if n > 1) or "one device"

    def make(self) -> jax.sharding.Mesh:
        """The mesh over all devices of all processes. UserError when their number is not the mesh's size."""
        n = jax.device_count()
        if self.size != n:
            fits = self.fsdp * n // self.size if self.fsdp * n % self.size == 0 else None
            right = f"Mesh.fsdp = {fits}" if fits else f"Mesh.fsdp = {n} and every other axis 1"
            raise UserError(f"the mesh ({self}) wants {self.size} devices, there are {n}: {right} would fit")
        slices = len({getattr(device, "slice_index", 0) for device in jax.devices()})
        if slices == 1:
            return jax.make_mesh(self.shape, AXES, axis_types=EXPLICIT)
        require(self.data % slices == 0, f"Mesh.data = {self.data} is no multiple of the {slices} slices")
        inside, across = (self.data // slices, *self.shape[1:]), (slices, 1, 1, 1, 1)
        devices = mesh_utils.create_hybrid_device_mesh(inside, across)
        return jax.sharding.Mesh(devices, AXES, axis_types=EXPLICIT)

    def abstract(self) -> AbstractMesh:
        """The same mesh without devices, for `jax.eval_shape` under `jax.sharding.use_abstract_mesh`."""
        return AbstractMesh(self.shape, AXES, axis_types=EXPLICIT)


def join(processes: str) -> None:
    """With 'auto', joins the other processes of the run; must come before any other use of jax.

    TPU pods, Slurm and Open MPI are recognised by jax. Elsewhere each process is told its place by the environment:
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES, JAX_PROCESS_ID.
    """
    if processes == "one" or jax.distributed.is_initialized():
        return
    count, index = (os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
    try:
        jax.distributed.initialize(num_processes=count and int(count), process_id=index and int(index))
    except ValueError as error:
        raise UserError(
            f"Mesh.processes = 'auto', but no cluster was recognised ({error}): set JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID, or Mesh.processes = 'one'"
        ) from error


def is_main() -> bool:
    """Whether this is process 0, the only one that writes files (Orbax excepted)."""
    return jax.process_index() == 0


def agree(flag: bool) -> bool:
    """True on every process as soon as one says True. All processes must call it."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def from_main(value: int) -> int:
    """The value that process 0 has. All processes must call it."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.asarray(value, np.int32)))
