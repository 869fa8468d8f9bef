"""The engine: who runs next, one forward for all of them, and what they get from it."""
