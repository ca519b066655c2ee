"""Where every array lies on the mesh: role -> PartitionSpec, all of it on this page.

Tokens go over (data, fsdp, expert) x context. Experts go over expert, then fsdp. Every other weight, and with it the
optimizer state, goes over (fsdp, expert), heads and widths over tensor. An axis of size 1 is left out of the specs, so
that on one device nothing is sharded and every reshape is free.

A weight is stored by its `*_stored` role and gathered over (fsdp, expert) where it is used; under `jax.grad` that
gather
becomes the reduce-scatter of its gradient. For decoding, `resident=True` stores weights as they are used: a gather per
token would dwarf the work.
"""

import dataclasses

from jax.sharding import PartitionSpec as P

from r1jax.base.fields import require
from r1jax.base.mesh import Mesh
from r1jax.model.config import Gqa, Mla, Transformer

Names = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True)
class Layout:
    """Specs for one mesh. Letters as in model/config.py; a role is named by its dimensions.

    dtype: what weights are cast to before they are gathered, and activations are; norms, softmax, router and log-probs
    stay float32.
    """

    mesh: Mesh
    dtype: str = "float32"
    resident: bool = False

    def axes(self, *names: str) -> Names:
        """Those of the named axes that have more than one device, as one entry of a spec."""
        kept = tuple(name for name in names if getattr(self.mesh, name) > 1)
        return kept[0] if len(kept) == 1 else kept or None

    @property
    def rows(self) -> Names:
        return self.axes("data", "fsdp", "expert")

    @property
    def context(self) -> Names:
        return self.axes("context")

    @property
    def tensor(self) -> Names:
        return self.axes("tensor")

    @property
    def store(self) -> Names:
        """Axes that hold the shards of a stored weight."""
        return None if self.resident else self.axes("fsdp", "expert")

    @property
    def expert_store(self) -> Names:
        return None if self.resident else self.axes("fsdp")

    # Activations.
    @property
    def BT(self) -> P:
        return P(self.rows, self.context)

    @property
    def BTD(self) -> P:
        return P(self.rows, self.context, None)

    @property
    def BSC(self) -> P:
        """A latent, or keys and values, gathered over context."""
        return P(self.rows, None, None)

    @property
    def BTF(self) -> P:
        return P(self.rows, self.context, self.tensor)

    @property
    def BTHK(self) -> P:
        return P(self.rows, self.context, self.tensor, None)

    @property
    def BSHK(self) -> P:
        return P(self.rows, None, self.tensor, None)

    # Weights, as stored; letters I and O are a contracted and a produced dimension.
    @property
    def whole(self) -> P:
        """Norms, biases of the router, the router: small, everywhere."""
        return P()

    def stored(self, *dims: str) -> P:
        """The spec of a stored weight; per dimension: 'store' the sharded one, 'tensor', 'expert', 'expert_store',
        ''."""
        axes = {"store": self.store, "tensor": self.tensor, "expert": self.axes("expert"), "": None}
        return P(*(axes[dim] if dim != "expert_store" else self.expert_store for dim in dims))

    def used(self, *dims: str) -> P:
        """The spec of the same weight where it is used: gathered over the storing axes."""
        return P(*(self.tensor if dim == "tensor" else None for dim in dims))

    def check(self, cfg: Transformer) -> None:
        """Raises UserError where the mesh does not divide the model."""
        mesh = self.mesh
        heads = {"heads": cfg.attention.heads}
        if isinstance(cfg.attention, Gqa):
            heads["kv_heads"] = cfg.attention.kv_heads
        for name, count in {**heads, "ffn_width": cfg.ffn_width, "vocabulary": cfg.vocabulary}.items():
            require(
                count % mesh.tensor == 0,
                f"Mesh.tensor {mesh.tensor} does not divide the model's {name} {count}; choose a divisor of it",
            )
        storing = 1 if self.resident else mesh.fsdp * mesh.expert
        stored = {"width": cfg.width, "vocabulary": cfg.vocabulary}
        if isinstance(cfg.attention, Mla):
            stored |= {"query_rank": cfg.attention.query_rank or storing, "kv_rank": cfg.attention.kv_rank}
        for name, size in stored.items():
            require(
                size % storing == 0, f"Mesh.fsdp x Mesh.expert = {storing} does not divide the model's {name} {size}"
            )
        require(cfg.moe is not None or mesh.expert == 1, f"Mesh.expert is {mesh.expert}, but the model has no experts")
        if cfg.moe is not None:
            require(
                cfg.moe.experts % mesh.expert == 0,
                f"Mesh.expert {mesh.expert} does not divide the model's {cfg.moe.experts} experts",
            )
            require(
                cfg.moe.width % mesh.tensor == 0,
                f"Mesh.tensor {mesh.tensor} does not divide the experts' width {cfg.moe.width}",
            )

    def check_rows(self, rows: int, length: int) -> None:
        """Raises UserError where the mesh does not divide a microbatch of `rows` rows of `length` tokens."""
        shards = self.mesh.data * self.mesh.fsdp * self.mesh.expert
        require(
            rows % shards == 0,
            f"a microbatch of {rows} rows is no multiple of the mesh's {shards} shards of rows (data x fsdp x expert)",
        )
        context = self.mesh.context
        require(length % context == 0, f"Mesh.context {context} does not divide rows of {length} tokens")
