"""Triton twins of the plain-torch references; with TRITON_INTERPRET=1 they run without a GPU."""
