"""Floor 0: mesh, places, files, checkpoints, metrics, field checks. Imports nothing else of r1jax."""
