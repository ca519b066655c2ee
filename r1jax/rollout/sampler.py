"""What to sample and what comes back."""

import dataclasses

import flax.struct
import jax

from r1jax.base.fields import check, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """samples: G responses a question. prompt_tokens: the longest prompt; response_tokens: the longest response, EOS
    included. slots: sequences that are decoded at once, over all devices. temperature 0 is greedy; top_p, top_k: None
    keeps every token."""

    samples: int
    prompt_tokens: int
    response_tokens: int
    slots: int
    temperature: float = 1.0
    top_p: float | None = None
    top_k: int | None = None

    def __post_init__(self):
        check(self)
        for name in ("samples", "prompt_tokens", "response_tokens", "slots"):
            require(getattr(self, name) >= 1, f"Sampler.{name} is {getattr(self, name)}; it must be at least 1")
        require(self.temperature >= 0, f"Sampler.temperature is {self.temperature}; it must not be negative")
        require(self.top_p is None or 0 < self.top_p <= 1, f"Sampler.top_p is {self.top_p}; it is a share in (0, 1]")
        require(self.top_k is None or self.top_k >= 1, f"Sampler.top_k is {self.top_k}; it must be at least 1")

    @property
    def window(self) -> int:
        """Cache slots of a sequence, S."""
        return self.prompt_tokens + self.response_tokens


@flax.struct.dataclass
class Prompts:
    """tokens [Q, T] int32, padded on the right; lengths [Q]; ids [Q], the question ids that the random keys fold in."""

    tokens: jax.Array
    lengths: jax.Array
    ids: jax.Array


@flax.struct.dataclass
class Sample:
    """tokens [Q, G, L] int32, EOS included, 0 beyond the length; logp and mass [Q, G, L] as in `draw`; lengths [Q, G];
    finished [Q, G] bool: ended by EOS, not by the limit. The order in which sequences ended never shows."""

    tokens: jax.Array
    logp: jax.Array
    mass: jax.Array
    lengths: jax.Array
    finished: jax.Array
