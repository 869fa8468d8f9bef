"""Hydra heads against row-by-row float64."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.kernels.hydra import head_states


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 5),
    drafted=st.integers(0, 4),
    size=st.integers(1, 9),
    inner=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_a_head_equals_its_definition(
    rows: int, drafted: int, size: int, inner: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    hidden, embedded = draw(rows, size), draw(rows, drafted + 1, size)
    w_in, b_in = draw(inner, (drafted + 2) * size), draw(inner)
    w_out, b_out = draw(size, inner), draw(size)
    states = head_states(hidden, embedded, w_in, b_in, w_out, b_out)
    assert states.shape == (rows, size) and states.dtype == torch.float32
    for row in range(rows):
        x = hidden[row].tolist() + [n for one in embedded[row].tolist() for n in one]
        moved = []
        for weights, bias in zip(w_in.tolist(), b_in.tolist(), strict=True):
            y = sum(w * n for w, n in zip(weights, x, strict=True)) + bias
            moved.append(y / (1 + math.exp(-y)))
        expected = hidden[row].double() + w_out.double() @ torch.tensor(moved).double()
        expected += b_out.double()
        torch.testing.assert_close(states[row].double(), expected, rtol=1e-4, atol=1e-4)
