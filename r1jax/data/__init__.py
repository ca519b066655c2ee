"""Text to arrays: tasks, templates, tokenizer, packing, feed. No jax."""
