"""The batch-invariant product beside torch's: its weight is to be read once."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch.nn.functional as F

from lorax_spec.bench.gpu.kernels.entry import Entry, Place
from lorax_spec.kernels.triton.linear import linear


def entries(place: Place) -> Iterator[Entry]:
    shape = place.shape
    for name, outs, ins in (
        ("gate and up", 2 * shape.intermediate_size, shape.hidden_size),
        ("down", shape.hidden_size, shape.intermediate_size),
    ):
        weight = place.random(outs, ins, scale=0.02)
        for rows in (1, place.batch):
            x = place.random(rows, ins)
            touched = (weight.numel() + x.numel() + rows * outs) * place.itemsize
            yield Entry(
                f"invariant linear, {name}, {rows} rows",
                partial(linear, x, weight),
                touched,
                2.0 * rows * weight.numel(),
                partial(F.linear, x, weight),
            )
