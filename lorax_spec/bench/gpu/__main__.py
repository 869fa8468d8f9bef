"""``python -m lorax_spec.bench.gpu``: says what is missing before anything needs it."""

from __future__ import annotations

import sys

from lorax_spec.bench.gpu.packages import missing

if __name__ == "__main__":
    if vital := [package for package in missing() if package.vital]:
        sys.exit("\n".join(map(str, vital)))
    from lorax_spec.bench.gpu.cli import main

    main()
