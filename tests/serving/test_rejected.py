"""Guesses that were wrong, told to those who ask."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

import pytest

from lorax_spec import Client
from tests.cli.processes import Server

pytestmark = pytest.mark.slow

PROMPT = "def area(width, height):\n    return width * height\n\n\ndef volume("


def test_over_grpc_they_make_up_what_was_drafted(server: Server) -> None:
    asked = {"method": "medusa", "num_tokens": 5, "show_rejected": True}
    with Client(server.grpc) as client:
        events = list(
            client.generate_stream(
                PROMPT, adapter_id="demo/medusa", max_new_tokens=24, speculation=asked
            )
        )
        quiet = list(
            client.generate_stream(
                PROMPT,
                adapter_id="demo/medusa",
                max_new_tokens=24,
                speculation={**asked, "show_rejected": False},
            )
        )
    rejected = [one for event in events for one in event.rejected]
    counts = events[-1].details.speculation
    assert counts.accepted_tokens + len(rejected) == counts.drafted_tokens > len(rejected) > 0
    assert all(one.drafter == "medusa" and one.ahead >= 1 and one.text for one in rejected)
    beside = [event for event in events if event.rejected]
    assert not any(event.token.skipped for event in beside), "told with a step's last token"
    assert not any(event.rejected for event in quiet)
    assert [e.token.id for e in quiet if e.token] == [e.token.id for e in events if e.token]


def test_over_http_they_come_with_step_details(server: Server) -> None:
    def events(step_details: bool) -> list[dict[str, Any]]:
        body = {
            "inputs": PROMPT,
            "parameters": {
                "max_new_tokens": 24,
                "adapter_id": "demo/medusa",
                "step_details": step_details,
            },
            "speculation": {"method": "medusa", "num_tokens": 5},
        }
        request = urllib.request.Request(
            f"http://{server.http}/generate_stream",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return [json.loads(line[5:]) for line in lines if line.startswith("data:")]

    told = events(True)
    counts = told[-1]["details"]["speculation"]
    rejected = [one for event in told for one in event.get("rejected") or ()]
    assert counts["accepted_tokens"] + len(rejected) == counts["drafted_tokens"]
    assert {"ahead", "id", "text", "drafter"} == rejected[0].keys()
    assert not any(event.get("rejected") for event in events(False))
