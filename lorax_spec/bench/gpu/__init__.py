"""``make gpu-check``: what a GPU at hand proves and measures in under nine minutes.

Parts run one after the other, each in its share of the time; what fails in one is its own.
"""
