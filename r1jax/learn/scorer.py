"""A reward model: the policy's shape with a scalar head in place of the language head (DeepSeek-R1, 2501.12948, section
3.1).

    value = w . h,  h the normalised hidden state of a response's last token

A scorer is a Policy whose params hold the head under `score` and neither a language head nor multi-token prediction:
steps, optimizer and checkpoints take it as they take any policy. The head is float32 and begins at zero, so a fresh
scorer says 0 of everything.
"""

import dataclasses

import jax
import jax.numpy as jnp

from r1jax.learn import microbatch
from r1jax.learn.likelihood import Model
from r1jax.model import lm
from r1jax.model.config import Transformer
from r1jax.model.layout import Layout


def of(policy: lm.Policy, layout: Layout) -> lm.Policy:
    """A fresh scorer on a policy's body."""
    body = {name: w for name, w in policy.params.items() if name != "head" and not name.startswith("mtp")}
    (width,) = body["norm"]["scale"].shape
    head_D = jnp.zeros(width, jnp.float32, out_sharding=layout.whole)
    router = {name: bias for name, bias in policy.router.items() if name != "mtp"}
    return lm.Policy(params=body | {"score": {"w": head_D}}, router=router)


def shapes(cfg: Transformer, layout: Layout) -> lm.Policy:
    """Shapes and shardings of a scorer, for a restore; the mesh of `layout` must be in force."""
    return jax.eval_shape(lambda: of(lm.init(jax.random.key(0), cfg, layout), layout))


def values(scorer: lm.Policy, rows: lm.Rows, *, model: Model) -> tuple[jax.Array, dict[str, lm.Load]]:
    """(the head [B, T] at every token of packed rows, float32; the experts' loads). A response's value stands at its
    last token."""
    body = dataclasses.replace(model.cfg, tied=True, mtp=0)  # tied: asks for no language head
    out = lm.forward(scorer, rows, cfg=body, layout=model.layout, remat=model.remat)
    return (out.x_BTD.astype(jnp.float32) * scorer.params["score"]["w"]).sum(-1), out.loads


def score_all(scorer: lm.Policy, rows: lm.Rows, count: jax.Array, *, model: Model) -> jax.Array:
    """`values` [M, B, T] in the first `count` microbatches of rows [M, B, T]; 0 beyond."""
    return microbatch.each(lambda micro: values(scorer, micro, model=model)[0], rows, count)
