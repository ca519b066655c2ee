"""One optimizer step over microbatches: the gradient, summed in float32, then AdamW, then the balancing bias.

A step is not applied where its gradient is not finite.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax

from r1jax.learn import microbatch
from r1jax.learn.state import Batch, State
from r1jax.model.lm import Policy

Metrics = dict[str, jax.Array]


def init(policy: Policy, optimizer: optax.GradientTransformation) -> State:
    zero = lambda: jnp.zeros((), jnp.int32, out_sharding=jax.P())  # noqa: E731  two buffers: a step donates both
    return State(step=zero(), policy=policy, optimizer=optimizer.init(policy.params), skipped=zero())


def compiled(loss: Callable, optimizer: optax.GradientTransformation, bias_rate: float) -> Callable:
    """`update` of one objective as (state, batch, count) -> (state, metrics), jitted; it donates the state."""
    return jax.jit(partial(update, loss=loss, optimizer=optimizer, bias_rate=bias_rate), donate_argnums=0)


def update(
    state: State,
    batch: Batch,
    count: jax.Array,
    *,
    loss: Callable,
    optimizer: optax.GradientTransformation,
    bias_rate: float,
) -> tuple[State, Metrics]:
    """The step on the first `count` microbatches of `batch`.

    loss(policy, microbatch) -> (loss, (sums, loads)); losses and sums add up over microbatches. bias_rate: gamma of the
    loss-free balancing (V3 section 2.1.2; 2408.15664, algorithm 1): b += gamma * sign(mean load - load).
    """
    policy = state.policy

    def objective(params, micro):
        return loss(Policy(params=params, router=policy.router), micro)

    def gradient(micro):
        (value, (sums, loads)), grads = jax.value_and_grad(objective, has_aux=True)(policy.params, micro)
        return value, sums, {name: load.tokens_E for name, load in loads.items()}, grads

    value, sums, loads, grads = microbatch.total(gradient, batch, count)

    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(norm) & jnp.isfinite(value)
    updates, new_optimizer = optimizer.update(grads, state.optimizer, policy.params)
    new_params = optax.apply_updates(policy.params, updates)
    new_router = {
        name: bias + bias_rate * jnp.sign(loads[name].mean(-1, keepdims=True) - loads[name]) if name in loads else bias
        for name, bias in policy.router.items()
    }
    keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)  # noqa: E731
    new = State(
        step=state.step + 1,
        policy=keep(Policy(params=new_params, router=new_router), policy),
        optimizer=keep(new_optimizer, state.optimizer),
        skipped=jnp.where(finite, 0, state.skipped + 1),
    )
    metrics = {"loss": value, **sums, "grad_norm": norm, "skipped_in_a_row": new.skipped}
    # What the step read, for its FLOPs: tokens without padding, and the keys that they attend to.
    read = batch.rows.segments > 0
    metrics["update/tokens"] = read.sum(dtype=jnp.float32)
    metrics["update/keys"] = jnp.where(read, batch.rows.positions + 1, 0).sum(dtype=jnp.float32)
    if "layers" in loads:
        tokens_NE = loads["layers"]
        metrics["moe/overload"] = (tokens_NE.max(-1) / jnp.maximum(tokens_NE.mean(-1), 1.0)).mean()
    return new, metrics
