"""What to sample and what comes back."""

import dataclasses

import flax.struct
import jax

from r1jax.base.fields import above, at_least, between, check


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
        at_least(1, self, "samples", "prompt_tokens", "response_tokens", "slots", "top_k")
        at_least(0, self, "temperature")
        above(0, self, "top_p")
        between(0, 1, self, "top_p")

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
