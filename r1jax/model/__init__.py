"""The transformer, in a strict subset of Flax Linen: `@nn.compact` and `self.param` alone.

No mutable collections, no `setup`, no ready-made layers, no partitioning boxes: a module is a pure function of its
parameters, a cache is an argument in and a value out, and every weight and activation names its sharding through a
`Layout`. flax.linen is imported in this folder and nowhere else.
"""
