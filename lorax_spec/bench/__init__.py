"""Measures what the engine promises, in pairs, against transformers and against itself."""
