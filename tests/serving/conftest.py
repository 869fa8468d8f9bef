"""One real server of the embedded model for the tests of this folder."""

from collections.abc import Iterator

import pytest
from openai import OpenAI

from lorax_spec import Client
from tests.cli.processes import Server


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    with Server("--speculative-tokens", "3", "--max-total-tokens", "512") as server:
        yield server


@pytest.fixture(scope="package")
def client(server: Server) -> Iterator[OpenAI]:
    """OpenAI's, on that server."""
    with OpenAI(base_url=f"http://{server.http}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="package")
def ours(server: Server) -> Iterator[Client]:
    """Our own, on that server."""
    with Client(server.grpc) as client:
        yield client
