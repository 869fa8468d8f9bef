"""A real server whose adapters come from a hub: the way through every process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lorax_spec import Client, embedded
from lorax_spec.errors import AdapterNotFound, PermissionDenied
from tests.cli.processes import Server, run
from tests.standins.hub import StandInHub

pytestmark = pytest.mark.slow

PROMPT = "def parse(line):\n"


def files(name: str) -> dict[str, bytes]:
    folder = embedded.path() / "adapters" / name
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def hub() -> Iterator[StandInHub]:
    with StandInHub() as hub:
        hub.repository("people/pirate").push(files("pirate"))
        hub.repository("people/own", private=True, readers={"right"}).push(files("tests"))
        hub.repository("people/heads", private=True, readers={"right"}).push(files("medusa"))
        yield hub


@pytest.fixture(scope="module")
def client(hub: StandInHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    cache = tmp_path_factory.mktemp("cache")
    words = ("--adapter-source", "hub", "--adapter-cache-dir", str(cache))
    with (
        Server(*words, HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="0") as server,
        Client(server.grpc) as client,
    ):
        yield client


def text(client: Client, adapter_id: str, **options: str) -> str:
    return client.generate(
        PROMPT, max_new_tokens=24, adapter_id=adapter_id, **options
    ).generated_text


def test_adapters_of_the_hub_say_what_local_ones_say(client: Client, hub: StandInHub) -> None:
    expected = text(client, "demo/pirate")
    assert text(client, "people/pirate") == expected != text(client, "__base_model__")
    assert text(client, "people/pirate", adapter_source="hub") == expected
    commit = hub.repositories["people/pirate"].branches["main"]
    assert text(client, "people/pirate", adapter_revision=commit) == expected
    assert text(client, f"people/pirate@{commit}") == expected
    with pytest.raises(AdapterNotFound):
        text(client, "demo/none", adapter_source="local")


def test_private_adapters_by_every_way(client: Client) -> None:
    expected = text(client, "demo/tests")
    assert text(client, "people/own", api_token="right") == expected
    for options in ({}, {"api_token": "wrong"}):
        with pytest.raises(PermissionDenied):
            text(client, "people/own", **options)
        with pytest.raises(PermissionDenied):
            client.load_adapter("people/own", **options)
        with pytest.raises(PermissionDenied):
            client.generate(
                PROMPT,
                max_new_tokens=4,
                adapter_id="people/pirate",
                speculation={"medusa_adapter_id": "people/heads"},
                **options,
            )
        with pytest.raises(PermissionDenied):
            client.generate(
                PROMPT,
                max_new_tokens=4,
                merged_adapters={"ids": ["people/pirate", "people/own"], "weights": [1.0, 1.0]},
                **options,
            )
    assert text(client, "people/own", api_token="right") == expected


def test_load_and_list(client: Client, hub: StandInHub, tmp_path: Path) -> None:
    commit = hub.repositories["people/own"].branches["main"]
    info = client.load_adapter(
        "people/own", adapter_source="hub", adapter_revision=commit, api_token="right"
    )
    assert (info.source, info.revision, info.state) == ("hub", commit, "device")
    assert info.load.fetch > 0 and info.load.read > 0
    assert "right" not in repr(client.list_adapters())
    assert client.pin_adapter("people/own").pinned
    client.unload_adapter("people/own")


def test_a_worker_says_what_is_wrong_with_its_sources(tmp_path: Path) -> None:
    done = run("worker", "--adapter-source", "s3", "--adapter-url", "file:///srv")
    assert done.returncode != 0 and "object store" in done.stderr
    assert "Traceback" not in done.stderr
