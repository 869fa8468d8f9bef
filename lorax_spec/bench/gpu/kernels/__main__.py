"""Each kernel once and small, for compute-sanitizer: ``python -m lorax_spec.bench.gpu.kernels``."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

import torch

from lorax_spec.bench.gpu.roofline import GROUPS, small

DTYPES = (torch.bfloat16, torch.float32)


def main() -> None:
    for dtype in DTYPES:
        place = replace(small("cuda"), dtype=dtype)
        for group in GROUPS:
            for entry in import_module(f"lorax_spec.bench.gpu.kernels.{group}").entries(place):
                entry.run()
                torch.cuda.synchronize()
                print(f"{dtype}: {entry.label}", flush=True)


if __name__ == "__main__":
    main()
