"""Generation: the jitted sampling loop with its slots and cache, and the drawing of a token."""
