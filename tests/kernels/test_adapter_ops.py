"""LoRA updates and Medusa heads against row-by-row float64."""

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.kernels.lora import (
    add_embedding_lora,
    add_lora,
    put_embeddings,
    put_linear,
    rescale,
)
from lorax_spec.kernels.medusa import head_states


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    rank=st.integers(1, 9),
    base_rows=st.integers(0, 5),
    seed=st.integers(0, 1000),
)
def test_each_row_gets_its_own_adapters_update(
    counts: list[int], rank: int, base_rows: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs, outputs, tiles = 24, 40, len(counts)
    total = sum(counts) + base_rows
    x = torch.randn(total, inputs, generator=generator)
    y = torch.randn(total, outputs, generator=generator)
    a = torch.randn(tiles, rank, inputs, generator=generator)
    b = torch.randn(tiles, outputs, rank, generator=generator)
    scale = torch.rand(tiles, generator=generator) * 4
    order = torch.randperm(total, generator=generator).tolist()
    expected = y.double()
    rows, kept, width = [], [], max(counts)
    for tile, count in enumerate(counts):
        own = [order.pop() for _ in range(count)]
        kept += [tile * width + i for i in range(count)]
        rows.append(own + own[-1:] * (width - count))
        for row in own:
            update = b[tile].double() @ (a[tile].double() @ x[row].double())
            expected[row] += scale[tile].double() * update
    add_lora(y, x, torch.tensor(rows), torch.tensor(kept), a, b, scale[:, None, None])
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(heads=st.integers(1, 4), layers=st.integers(0, 3), rows=st.integers(1, 5))
def test_heads_equal_their_definition(heads: int, layers: int, rows: int) -> None:
    size = 12
    generator = torch.Generator().manual_seed(heads + 10 * layers + 100 * rows)
    hidden = torch.randn(rows, size, generator=generator)
    weight = torch.randn(heads, layers, size, size, generator=generator)
    bias = torch.randn(heads, layers, size, generator=generator)
    states = head_states(hidden, weight, bias)
    for head in range(heads):
        for row in range(rows):
            h = hidden[row].double()
            for layer in range(layers):
                h = h + F.silu(weight[head, layer].double() @ h + bias[head, layer].double())
            torch.testing.assert_close(states[head, row].double(), h, rtol=1e-4, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    rank=st.integers(1, 9),
    base_rows=st.integers(0, 5),
    seed=st.integers(0, 1000),
    scaled=st.booleans(),
    biased=st.booleans(),
)
def test_changes_of_layers_equal_their_definition(
    counts: list[int], rank: int, base_rows: int, seed: int, scaled: bool, biased: bool
) -> None:
    """Each row's own; rows of no tile stay as they are."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    inputs, outputs, vocabulary, tiles = 24, 40, 30, len(counts)
    total = sum(counts) + base_rows
    x, y, ids = draw(total, inputs), draw(total, outputs), torch.randint(vocabulary, (total,))
    order = torch.randperm(total, generator=generator).tolist()
    rows, kept, owner, width = [], [], [-1] * total, max(counts)
    for tile, count in enumerate(counts):
        own = [order.pop() for _ in range(count)]
        kept += [tile * width + i for i in range(count)]
        rows.append(own + own[-1:] * (width - count))
        for row in own:
            owner[row] = tile
    at, keep = torch.tensor(rows), torch.tensor(kept)
    weights = [draw(outputs, inputs) for _ in range(tiles)]
    tables = [draw(vocabulary, outputs) for _ in range(tiles)]
    own_bias = draw(outputs)
    factor = draw(tiles, outputs) if scaled else None
    bias = draw(tiles, outputs) if biased else None
    a, b, scale = [draw(rank, vocabulary) for _ in range(tiles)], draw(tiles, outputs, rank), 1.5
    linear, embedded, changed, added = y.clone(), y.clone(), y.clone(), y.clone()
    put_linear(linear, x, at, keep, weights, own_bias)
    put_embeddings(embedded, ids, at, keep, tables, 0.5)
    rescale(changed, at, keep, factor, bias)
    add_embedding_lora(added, ids, at, keep, a, b, torch.full((tiles, 1, 1), scale))
    for row, tile in enumerate(owner):
        if tile < 0:
            for found in (linear, embedded, changed, added):
                assert torch.equal(found[row], y[row])
            continue
        one_hot = F.one_hot(ids[row], vocabulary).double()
        expected = {
            linear: weights[tile].double() @ x[row].double() + own_bias.double(),
            embedded: 0.5 * one_hot @ tables[tile].double(),
            changed: y[row].double() * (1 if factor is None else factor[tile].double())
            + (0 if bias is None else bias[tile].double()),
            added: y[row].double() + scale * b[tile].double() @ (a[tile].double() @ one_hot),
        }
        for found, wanted in expected.items():
            torch.testing.assert_close(found[row].double(), wanted, rtol=1e-4, atol=1e-4)
