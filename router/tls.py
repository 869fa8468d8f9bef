"""The TLS files of both ports, as each server wants them."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import grpc


def grpc_tls(cert: Path | None, key: Path | None, ca: Path | None) -> grpc.ServerCredentials | None:
    """None for plain text.  Raises ValueError for half a pair, OSError for a missing file."""
    pair = _pair(cert, key, ca)
    if pair is None:
        return None
    cert, key = pair
    return grpc.ssl_server_credentials(
        [(key.read_bytes(), cert.read_bytes())],
        root_certificates=ca.read_bytes() if ca else None,
        require_client_auth=ca is not None,
    )


def uvicorn_tls(cert: Path | None, key: Path | None, ca: Path | None) -> dict[str, Any]:
    """Arguments of ``uvicorn.Config``, none for plain text; raises as ``grpc_tls``."""
    pair = _pair(cert, key, ca)
    if pair is None:
        return {}
    options: dict[str, Any] = {"ssl_certfile": str(pair[0]), "ssl_keyfile": str(pair[1])}
    if ca is not None:
        options |= {"ssl_ca_certs": str(ca), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return options


def _pair(cert: Path | None, key: Path | None, ca: Path | None) -> tuple[Path, Path] | None:
    if cert is None and key is None and ca is None:
        return None
    if cert is None or key is None:
        raise ValueError("TLS needs both a certificate (--tls-cert) and its key (--tls-key)")
    return cert, key
