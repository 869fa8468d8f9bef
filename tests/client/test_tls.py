"""Both clients over TLS, with and without a certificate of their own."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from lorax_spec import AsyncClient, Client, Unavailable
from lorax_spec.client import Retry
from tests.client.scripted import Running, ScriptedServer

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes keys with openssl")

ONCE = Retry(attempts=0)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A certificate for localhost that vouches for itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    words = [*command.split(), "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out"]
    subprocess.run([*words, cert], check=True, capture_output=True)
    return {"cert": cert, "key": key}


@pytest.fixture(scope="module")
def target(pem: dict[str, Path]) -> Iterator[str]:
    cert, key = pem["cert"].read_bytes(), pem["key"].read_bytes()
    credentials = grpc.ssl_server_credentials(
        [(key, cert)], root_certificates=cert, require_client_auth=True
    )
    running = Running(ScriptedServer(), "localhost:0", credentials)
    yield running.target
    running.stop()


def test_who_is_known_is_answered(target: str, pem: dict[str, Path]) -> None:
    options: dict[str, Any] = {
        "tls_ca": pem["cert"],
        "tls_cert": pem["cert"],
        "tls_key": pem["key"],
    }

    async def awaited() -> str:
        async with AsyncClient(target, **options) as client:
            return (await client.info()).model_id

    with Client(target, **options) as client:
        assert client.info().model_id == asyncio.run(awaited()) == "scripted"


@pytest.mark.parametrize("options", [{}, {"tls": True}, {"tls_ca": "cert"}])
def test_who_is_not_is_turned_away(
    target: str, pem: dict[str, Path], options: dict[str, Any]
) -> None:
    known = {name: pem["cert"] if value == "cert" else value for name, value in options.items()}
    with Client(target, retry=ONCE, timeout=10, **known) as client, pytest.raises(Unavailable):
        client.info()
