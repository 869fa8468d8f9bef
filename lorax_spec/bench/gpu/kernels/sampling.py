"""Choosing tokens: the logits are to be read once, with filters and without."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from lorax_spec.bench.gpu.kernels.entry import Entry, Place
from lorax_spec.kernels.sampling_rows import MASK_WORD, MAX_EXTRA, SamplingRows
from lorax_spec.kernels.triton.sampling import sample, workspace

_TOP_K, _TOP_P = 50, 0.9


def entries(place: Place) -> Iterator[Entry]:
    rows, vocabulary, device = place.batch, place.vocabulary, place.device
    logits = torch.randn(rows, vocabulary, device=device)
    for what, temperature, filters in (("greedy", 0.0, False), ("top-k and top-p", 0.8, True)):
        chosen = _rows(place, temperature, filters)
        room = workspace(rows, vocabulary, device, filters)
        run = partial(sample, logits, chosen, room)
        yield Entry(f"sampling, {what}, {rows} rows of {vocabulary}", run, logits.nbytes)


def _rows(place: Place, temperature: float, filters: bool) -> SamplingRows:
    rows, vocabulary, device = place.batch, place.vocabulary, place.device

    def same(value: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.full((rows,), value, dtype=dtype, device=device)

    def whole(value: int) -> torch.Tensor:
        return same(value, torch.int32)

    nothing = torch.zeros(1, dtype=torch.int32, device=device)
    return SamplingRows(
        source=torch.arange(rows, dtype=torch.int32, device=device),
        temperature=same(temperature),
        top_k=whole(_TOP_K if filters else 0),
        top_p=same(_TOP_P if filters else 1.0),
        min_p=same(0.0),
        typical_p=same(1.0),
        repetition=same(1.0),
        frequency=same(0.0),
        presence=same(0.0),
        seeds=torch.arange(rows, device=device),
        positions=same(place.context, torch.int64),
        history=whole(-1),
        seen=torch.zeros(1, vocabulary, dtype=torch.bool, device=device),
        counts=torch.zeros(1, vocabulary, device=device),
        extra_tokens=torch.zeros(rows, MAX_EXTRA, dtype=torch.int32, device=device),
        extra_counts=whole(0),
        bias_starts=torch.zeros(rows + 1, dtype=torch.int32, device=device),
        bias_tokens=nothing,
        bias_values=nothing.float(),
        mask=whole(-1),
        masks=torch.full((1, -(-vocabulary // MASK_WORD)), -1, dtype=torch.int32, device=device),
    )
