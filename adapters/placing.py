"""Bringing weights to the device."""

from __future__ import annotations

from collections.abc import Callable

import torch

from lorax_spec.adapters.weights import AdapterWeights

#: Gives the same adapter on the device; blocks until it is there.
Place = Callable[[AdapterWeights], AdapterWeights]


def place_on(device: torch.device) -> Place:
    """How weights get from host memory to ``device``; on CPU they are there already.

    On CUDA the copy runs on a stream of its own beside the model's kernels.  It first waits for
    what the default stream, which the engine computes on, has been given so far: the memory may
    have been an evicted adapter's that the last step still reads.
    """
    if device.type == "cuda":
        return _place_on_cuda(device)
    return lambda weights: weights.to(device)


def _place_on_cuda(device: torch.device) -> Place:
    stream = torch.cuda.Stream(device)

    def place(weights: AdapterWeights) -> AdapterWeights:
        stream.wait_stream(torch.cuda.default_stream(device))
        with torch.cuda.stream(stream):
            placed = weights.to(device, non_blocking=True)
        stream.synchronize()
        return placed

    return place
