"""One real server of the embedded model for the tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.cli.processes import Server


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    with Server("--speculative-tokens", "3", "--max-total-tokens", "512") as server:
        yield server
