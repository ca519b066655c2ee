"""r1jax: the DeepSeek-R1 recipe as pure JAX programs."""
