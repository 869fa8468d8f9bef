"""Kernels run on the GPU where there is one, and else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from lorax_spec.kernels.triton.variant import INTERPRETED


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cpu" if INTERPRETED else "cuda")
