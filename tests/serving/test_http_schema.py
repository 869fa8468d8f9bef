"""Our own OpenAPI document, believed: whatever it permits or forbids gets a documented answer."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from lorax_spec import Client
from tests.cli.processes import Server
from tests.serving.web import ask

pytestmark = pytest.mark.slow

#: Of each route, of what the document permits and of what it forbids.
EXAMPLES = 12
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


def test_whatever_is_sent(server: Server) -> None:
    schema = schemathesis.openapi.from_url(f"http://{server.http}/openapi.json")
    seen: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode.POSITIVE, GenerationMode.NEGATIVE:
            if mode is GenerationMode.NEGATIVE and not [*operation.body]:
                continue  # no text in a path is wrong

            @given(case=operation.as_strategy(generation_mode=mode))
            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            def send(case: Any) -> None:
                shorten(case.body)
                response = case.call_and_validate(checks=CHECKS, timeout=30)
                seen.setdefault(case.operation.label, set()).add(response.status_code)

            send()
    assert len(seen) > 12, seen
    assert 200 in seen["POST /generate"] and 422 in seen["POST /generate"], seen
    assert {200, 400} <= seen["POST /v1/chat/completions"], seen
    assert ask(server.http, "/health").status == ask(server.http, "/startup").status == 200
    with Client(server.grpc) as client:
        assert client.generate("x", max_new_tokens=3).details.generated_tokens == 3
        assert not any(adapter.in_use for adapter in client.list_adapters())


def shorten(body: Any) -> None:
    """An answer of 500 tokens shows no more than one of three."""
    if not isinstance(body, dict):
        return
    if "inputs" in body and isinstance(body.get("parameters", {}), dict | None):
        body["parameters"] = {**(body.get("parameters") or {}), "max_new_tokens": 3}
    elif "model" in body:
        body["max_tokens"] = 3


def test_every_reference_of_the_document_leads_somewhere(server: Server) -> None:
    document = ask(server.http, "/openapi.json").json
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}

    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    found = references(document)
    assert found <= known
    assert {"#/components/schemas/StreamAnswer", "#/components/schemas/ChatChunk"} <= found
