"""Pure update mathematics: a step is `(state, batch) -> (state, metrics)`. No text, no files, no loops on the host."""
