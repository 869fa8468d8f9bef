"""Finding out how many rows a product must have for its bits not to depend on their number.

A matrix library picks its kernel by shape: a product over one row may sum in another order than
one over eight.  From some row count on (the row floor) the CPU libraries tried so far give a row
the same bits whatever stands beside it.  The check runs the linear layers of the very model on the
very machine, so nothing is taken on trust.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

#: Row counts tried as a floor, and the counts a floor must then hold for.
FLOORS = (1, 4, 8, 16)
COUNTS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 32, 64, 100, 256, 512)
#: Larger products than this many multiplications are left out: the check must not take minutes.
LARGEST_CHECK = 2**28

#: The most that padding to the floor may cost one decoding sequence before it is no default.
AFFORDABLE = 1.10


def row_floor(model: nn.Module) -> int | None:
    """The smallest of FLOORS from which on every distinct linear layer of ``model`` is invariant;
    None if there is none."""
    layers = list(_distinct_linears(model))
    for floor in FLOORS:
        if all(_invariant(layer, floor) for layer in layers):
            return floor
    return None


@torch.inference_mode()
def cost_of_floor(model: nn.Module, floor: int) -> float:
    """Time of all distinct linear layers over ``floor`` rows by that over one row."""
    layers = list(_distinct_linears(model))

    def run(rows: int) -> Callable[[], None]:
        inputs = [_random_rows(layer, rows) for layer in layers]

        def once() -> None:
            for layer, x in zip(layers, inputs, strict=True):
                layer(x)

        return once

    return _fastest(run(floor)) / _fastest(run(1))


def _fastest(once: Callable[[], None], repeats: int = 15) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        once()
        times.append(time.perf_counter() - started)
    return min(times)


@torch.inference_mode()
def _invariant(layer: nn.Linear, floor: int) -> bool:
    """Each count's rows equal those computed in the largest batch, and a shifted batch too."""
    counts = [c for c in COUNTS if c <= max(32, LARGEST_CHECK // layer.weight.numel())]
    rows = _random_rows(layer, max(counts[-1], floor) + 1)
    whole = layer(rows)
    for count in counts:
        padded = max(count, floor)
        if not torch.equal(layer(rows[:padded])[:count], whole[:count]):
            return False
        if not torch.equal(layer(rows[1 : padded + 1])[:count], whole[1 : count + 1]):
            return False
    return True


def _random_rows(layer: nn.Linear, rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, layer.in_features, generator=generator)
    return x.to(layer.weight.device, layer.weight.dtype)


def _distinct_linears(model: nn.Module) -> Iterator[nn.Linear]:
    seen: set[tuple[int, int]] = set()
    for module in model.modules():
        if isinstance(module, nn.Linear) and tuple(module.weight.shape) not in seen:
            seen.add((module.out_features, module.in_features))
            yield module
