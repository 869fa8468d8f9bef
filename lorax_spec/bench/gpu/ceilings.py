"""What the device can do at best: copy memory, and multiply large matrices."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from lorax_spec.bench.gpu.figures import Figure
from lorax_spec.bench.gpu.floors import Ceilings
from lorax_spec.bench.gpu.sizes import Sizes
from lorax_spec.bench.gpu.timing import typical_seconds


def measure(device: torch.device, dtype: torch.dtype, sizes: Sizes) -> Ceilings:
    """Copies count bytes read and written, the best size counts; products are of random data."""
    bandwidth = max(_copied_per_second(size, device, sizes.repeats) for size in sizes.copy_bytes)
    a, b = (torch.randn(sizes.product, sizes.product, device=device).to(dtype) for _ in range(2))
    seconds = typical_seconds(lambda: a @ b, device, sizes.repeats)
    return Ceilings(bandwidth, 2 * sizes.product**3 / seconds)


def figures(found: Ceilings) -> Iterator[Figure]:
    yield Figure("copy bandwidth, read and written", found.bandwidth / 1e12, " TB/s")
    yield Figure("large matrix product, random data", found.flops / 1e12, " TFLOP/s")


def _copied_per_second(size: int, device: torch.device, repeats: int) -> float:
    source = torch.randint(-128, 127, (size,), dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    seconds = typical_seconds(lambda: target.copy_(source), device, repeats)
    return 2 * size / seconds
