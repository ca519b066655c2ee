"""Floor 2: text in, numbers out. Plain Python: imports neither jax nor anything of r1jax but base."""
