"""Tensor operations, each a plain-torch reference that faster twins must equal."""
