"""What a transformer is: one definition with two shapes, DeepSeek-V3 (MLA, mixture of experts) and dense (GQA).

The letters that names, einsums and comments use everywhere in the project:

B sequences or rows · T query tokens · S key tokens, cache slots · D width · H heads · K head dimension without
rotation · R rotated head dimension · V value head dimension · Q query rank · C key-value rank · F feed-forward width ·
E experts · A experts per token · N layers · X vocabulary · G samples per question · M microbatches
"""

import dataclasses

from r1jax.base.fields import above, at_least, check, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Yarn:
    """YaRN's context extension (2309.00071) as DeepSeek-V3 sets it; the attention scale grows with `mscale_all`."""

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 1.0
    mscale_all: float = 1.0

    def __post_init__(self):
        check(self)
        at_least(1, self, "factor", "original_context")
        above(0, self, "beta_fast", "beta_slow")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Llama 3.1's frequency scaling: long waves are slowed by `factor`, short ones kept, those between blended."""

    factor: float
    original_context: int
    low_frequency: float = 1.0
    high_frequency: float = 4.0

    def __post_init__(self):
        check(self)
        at_least(1, self, "factor", "original_context")
        above(0, self, "low_frequency")
        above(self.low_frequency, self, "high_frequency")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary positions. interleaved: rotates pairs (0, 1), (2, 3), ... as DeepSeek does, else (0, R/2), (1, R/2+1),
    ..."""

    theta: float = 10_000.0
    interleaved: bool = False
    scaling: Yarn | Llama3Scaling | None = None

    def __post_init__(self):
        check(self)
        above(0, self, "theta")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mla:
    """Multi-head latent attention (DeepSeek-V3, 2412.19437, equations 1 to 11); query_rank None: q comes straight from
    D."""

    heads: int
    query_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int

    def __post_init__(self):
        check(self)
        at_least(1, self, "heads", "query_rank", "kv_rank", "nope_dim", "value_dim")
        at_least(2, self, "rope_dim")
        require(self.rope_dim % 2 == 0, f"Mla.rope_dim is {self.rope_dim}; rotation works on pairs, so it must be even")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gqa:
    """Grouped-query attention. bias: on q, k and v (Qwen2). qk_norm: RMSNorm over each head's q and k (Qwen3)."""

    heads: int
    kv_heads: int
    head_dim: int
    bias: bool = False
    qk_norm: bool = False

    def __post_init__(self):
        check(self)
        at_least(1, self, "heads", "kv_heads")
        at_least(2, self, "head_dim")
        require(
            self.heads % self.kv_heads == 0, f"Gqa.heads {self.heads} is no multiple of Gqa.kv_heads {self.kv_heads}"
        )
        require(self.head_dim % 2 == 0, f"Gqa.head_dim is {self.head_dim}; rotation works on pairs, so it must be even")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moe:
    """DeepSeekMoE (V3 equations 12 to 20).

    experts, active: routed experts, and how many of them a token takes. shared: experts that every token takes.
    width: F of one expert. dense_layers: the first layers, which have a dense feed-forward instead.
    groups, top_groups: a token's experts come from its `top_groups` best of `groups` groups; a group counts as the sum
    of its two best scores where `select_bias`, else as its best one (V2).
    score: 'sigmoid' (V3) or 'softmax' (V2) of the logits. select_bias: selection on score + bias, the bias moved by
    the load (loss-free balancing). renormalise: gates sum to one before `scale`.
    balance_loss: alpha of the sequence-wise balance loss.
    """

    experts: int
    active: int
    shared: int
    width: int
    dense_layers: int = 1
    groups: int = 1
    top_groups: int = 1
    score: str = "sigmoid"
    select_bias: bool = True
    renormalise: bool = True
    scale: float = 1.0
    balance_loss: float = 1e-4

    def __post_init__(self):
        check(self)
        at_least(1, self, "experts", "active", "width", "groups", "top_groups")
        at_least(0, self, "shared", "dense_layers", "balance_loss")
        above(0, self, "scale")
        require(self.score in ("sigmoid", "softmax"), f"Moe.score is '{self.score}'; choose 'sigmoid' or 'softmax'")
        require(
            self.experts % self.groups == 0, f"Moe.experts {self.experts} is no multiple of Moe.groups {self.groups}"
        )
        require(
            self.top_groups <= self.groups, f"Moe.top_groups {self.top_groups} is more than Moe.groups {self.groups}"
        )
        require(
            self.active <= self.experts // self.groups * self.top_groups,
            f"Moe.active {self.active} is more than the {self.top_groups} top groups hold",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transformer:
    """One model. context: the longest sequence, in tokens. mtp: depth of multi-token prediction, 0 or 1.

    unroll: layers compiled as straight-line code instead of a loop; worth it for a few layers only.
    """

    vocabulary: int
    width: int
    layers: int
    ffn_width: int
    context: int
    attention: Mla | Gqa
    rope: Rope
    moe: Moe | None = None
    mtp: int = 0
    tied: bool = False
    norm_eps: float = 1e-6
    init_std: float = 0.02
    unroll: bool = False

    def __post_init__(self):
        check(self)
        at_least(1, self, "vocabulary", "width", "layers", "ffn_width", "context")
        at_least(0, self, "init_std")
        above(0, self, "norm_eps")
        require(self.mtp in (0, 1), f"Transformer.mtp is {self.mtp}; multi-token prediction has depth 0 or 1")
        require(
            self.moe is None or self.moe.dense_layers < self.layers,
            f"Moe.dense_layers leaves none of {self.layers} layers to the experts",
        )

    @property
    def dense_layers(self) -> int:
        return self.layers if self.moe is None else self.moe.dense_layers

    @property
    def moe_layers(self) -> int:
        return self.layers - self.dense_layers
