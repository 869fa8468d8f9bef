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
        hub.repository("people/own", private=True, readers={"right", "also"}).push(files("tests"))
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
    """All of them are on the device, for those who may read them, when the others come."""
    expected = text(client, "demo/tests")
    assert text(client, "people/own", api_token="right") == expected
    paired = client.generate(
        PROMPT,
        max_new_tokens=24,
        adapter_id="people/pirate",
        speculation={"method": "medusa", "num_tokens": 3, "medusa_adapter_id": "people/heads"},
        api_token="right",
    )
    assert paired.generated_text == text(client, "demo/pirate")
    assert paired.details is not None and paired.details.speculation.accepted_tokens > 0
    ids = ["demo/pirate", "demo/tests"], ["people/pirate", "people/own"]
    local, merged = (
        client.generate(
            PROMPT,
            max_new_tokens=24,
            merged_adapters={"ids": names, "weights": [1.0, 1.0]},
            api_token="right",
        ).generated_text
        for names in ids
    )
    assert merged == local != expected
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


def test_what_two_tokens_read_is_told_apart(client: Client) -> None:
    """By a real router, which adds up what workers say of one adapter."""
    for token in ("right", "also"):
        text(client, "people/own", api_token=token, adapter_revision="main")
    found = [
        info
        for info in client.list_adapters()
        if (info.adapter_id, info.revision) == ("people/own", "main")
    ]
    assert len({info.scope for info in found}) == len(found) == 2
    assert all(info.scope for info in found)
    (public,) = {i.scope for i in client.list_adapters() if i.adapter_id == "demo/pirate"}
    assert public == ""


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
