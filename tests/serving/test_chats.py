"""Messages through a real server are written as the adapter's folder says, wherever it lies."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from lorax_spec import AdapterNotFound, Client, Engine, InvalidArgument, embedded
from lorax_spec.errors import PermissionDenied
from lorax_spec.types import GenerateRequest, Message, Parameters
from tests.cli.processes import Server
from tests.serving.test_hub import files
from tests.standins.hub import StandInHub

pytestmark = pytest.mark.slow

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "def add("}]
OWN = "{{ eos_token }}{% for m in messages %}# {{ m.role }}: {{ m.content }}\n{% endfor %}"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
TEMPLATES = {
    "plain": None,
    "own": OWN,
    "changed": OWN,
    "strict": "{{ raise_exception('no system messages') }}",
    "endless": ENDLESS,
}
NEW_TOKENS = 8
#: Of the router's answers to itself.
KEPT_SECONDS = 5


def write(folder: Path, template: str | None) -> None:
    shutil.copytree(embedded.path() / "adapters" / "pirate", folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)


def by_transformers(template: str | None) -> str:
    tokenizer = AutoTokenizer.from_pretrained(embedded.path() / "base")
    rendered = tokenizer.apply_chat_template(
        MESSAGES, tokenize=False, add_generation_prompt=True, chat_template=template
    )
    assert isinstance(rendered, str)
    return rendered


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adapters")
    for name, template in TEMPLATES.items():
        write(root / name, template)
    return root


@pytest.fixture(scope="module")
def hub() -> Iterator[StandInHub]:
    with StandInHub() as hub:
        private = hub.repository("people/own", private=True, readers={"right"})
        private.push(
            {**files("pirate"), "chat_template.jinja": b"private {{ messages[0].content }}"}
        )
        yield hub


@pytest.fixture(scope="module")
def client(
    root: Path, hub: StandInHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    cache = tmp_path_factory.mktemp("cache")
    words = ("--adapter-root", f"own={root}", "--adapter-source", "hub")
    with (
        Server(
            *words, "--adapter-cache-dir", str(cache), HF_ENDPOINT=hub.endpoint, HF_HUB_OFFLINE="0"
        ) as server,
        Client(server.grpc) as client,
    ):
        yield client


def prompt(client: Client, adapter_id: str | None, **options: Any) -> str:
    """What the messages became; the answer is that to the same prompt as text."""
    options = {"max_new_tokens": NEW_TOKENS, "ignore_eos_token": True, **options}
    answer = client.chat(MESSAGES, adapter_id, return_full_text=True, details=True, **options)
    new = "".join(token.text for token in answer.details.tokens)
    assert answer.details.generated_tokens == NEW_TOKENS
    return answer.generated_text.removesuffix(new)


def test_each_adapter_has_its_own(client: Client, root: Path) -> None:
    base, own = by_transformers(None), by_transformers(OWN)
    assert base != own
    wanted = {
        None: base,
        "__base_model__": base,
        "own/plain": base,
        "own/own": own,
        "demo/medusa": base,
    }
    with ThreadPoolExecutor(len(wanted)) as threads:
        for _ in range(2):
            asked = list(threads.map(lambda one: prompt(client, one), wanted))
            assert asked == [*wanted.values()]
    assert prompt(client, "own/plain", speculation={"medusa_adapter_id": "demo/medusa"}) == base
    merged = {"ids": ["own/own", "own/plain"]}
    assert prompt(client, None, merged_adapters=merged) == base, "of neither part"


def test_a_changed_folder_has_a_changed_template(client: Client, root: Path) -> None:
    assert prompt(client, "own/changed") == by_transformers(OWN)
    (root / "changed" / "chat_template.jinja").write_text("new {{ messages[1].content }}")
    end = time.monotonic() + KEPT_SECONDS + 2
    while prompt(client, "own/changed") != "new def add(":
        assert time.monotonic() < end, "it still has the old one"
        time.sleep(0.2)


def test_a_private_adapters_is_for_its_readers(client: Client) -> None:
    for _ in range(2):
        assert prompt(client, "people/own", api_token="right") == "private Be brief."
        for options in ({}, {"api_token": "wrong"}):
            with pytest.raises(PermissionDenied):
                prompt(client, "people/own", **options)


def test_faults_are_one_clear_error(client: Client) -> None:
    with pytest.raises(AdapterNotFound, match="nobody"):
        prompt(client, "own/nobody", adapter_source="local")
    with pytest.raises(InvalidArgument, match=r"own/strict.*no system messages") as caught:
        prompt(client, "own/strict")
    assert caught.value.field == "messages"
    assert client.generate("x", "own/strict", max_new_tokens=2).details.generated_tokens == 2


def test_an_endless_template_keeps_nobody_waiting(client: Client) -> None:
    with ThreadPoolExecutor(3) as threads:
        bad = [threads.submit(prompt, client, "own/endless") for _ in range(3)]
        time.sleep(0.5)
        slowest = 0.0
        while not bad[0].done() or not bad[1].done():
            began = time.monotonic()
            assert prompt(client, "own/own") == by_transformers(OWN)
            slowest = max(slowest, time.monotonic() - began)
        for call in bad:
            with pytest.raises(InvalidArgument, match="own/endless' takes longer than 1 s"):
                call.result()
    assert 0 < slowest < 0.9, slowest


def test_in_process_it_is_the_same(root: Path) -> None:
    messages = tuple(Message(**message) for message in MESSAGES)
    parameters = Parameters(NEW_TOKENS, return_full_text=True, ignore_eos_token=True)

    def asked(adapter_id: str | None) -> GenerateRequest:
        return GenerateRequest("", adapter_id, messages=messages, parameters=parameters)

    def texts(engine: Engine, *requests: GenerateRequest) -> list[str]:
        return [answer.generated_text for answer in engine.generate(requests)]

    with Engine(adapter_root=root, max_active_adapters=1) as engine:
        wanted = {None: None, "own": OWN, "plain": None, "__base_model__": None}
        rendered = [by_transformers(template) for template in wanted.values()]
        found = texts(engine, *map(asked, wanted))
        as_text = [
            GenerateRequest(text, adapter_id, parameters=parameters)
            for text, adapter_id in zip(rendered, wanted, strict=True)
        ]
        assert all(text.startswith(start) for text, start in zip(found, rendered, strict=True))
        assert found == texts(engine, *as_text)
        with pytest.raises(InvalidArgument, match="no system messages"):
            engine.generate([asked(None), asked("strict")])
        # Whichever of the two is read first: the other is let go.
        with pytest.raises(InvalidArgument, match=r"no system messages|takes longer than 1 s"):
            engine.generate([asked("strict"), asked("endless")])
        with pytest.raises(AdapterNotFound):
            engine.generate([asked("nobody"), asked("own")])
        assert texts(engine, asked("own")) == found[1:2]
        engine.core.adapters.check_integrity()
    with Engine(adapter_root=root, adapter_id="own") as engine:
        assert texts(engine, asked(None)) == found[1:2], "the default's"
