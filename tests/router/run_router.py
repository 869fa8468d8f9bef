"""``python -m tests.router.run_router '{"workers": [...], ...}'``: a router process."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lorax_spec.router.server import RouterConfig, serve_router


def main() -> int:
    options: dict[str, Any] = {"max_concurrent_requests": 100, **json.loads(sys.argv[1])}
    paths = [name for name in options if name.startswith("tls_") or name == "api_key_file"]
    files = {name: Path(options[name]) for name in paths}
    config = RouterConfig(**{**options, **files, "workers": tuple(options["workers"])})
    return serve_router(config, lambda grpc, http: print(grpc, http, flush=True))


if __name__ == "__main__":
    sys.exit(main())
