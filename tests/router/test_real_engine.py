"""Router and worker around the real engine: the same answers as in process, whatever happens."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lorax_spec import Engine
from lorax_spec.types import GenerateRequest, Method, Parameters, Response, Speculation
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.wire import request_to_pb, response_from_pb, stream_from_pb
from tests.router.house import House, house
from tests.worker.processes import process

pytestmark = pytest.mark.slow

REQUESTS = [
    GenerateRequest(
        f"def {name}(self, value):\n    return", adapter, parameters=parameters, speculation=drafts
    )
    for name, adapter, drafts, parameters in [
        ("read", None, Speculation(), Parameters(60)),
        ("read", None, Speculation(), Parameters(60, 0.8, seed=3, top_p=0.9)),
        ("write", "demo/medusa", Speculation(), Parameters(60)),
        ("write", "demo/tests-medusa", Speculation(), Parameters(60, 0.9, seed=2**63)),
        ("close", "demo/pirate", Speculation(), Parameters(60, stop=("\n\n",))),
        ("open", None, Speculation(num_tokens=4), Parameters(60, repetition_penalty=1.2)),
    ]
]

#: These cannot be streamed.
BEST = [
    GenerateRequest(
        "def read(self, value):\n    return",
        adapter,
        parameters=Parameters(30, 0.8, seed=11, best_of=3),
        speculation=drafts,
    )
    for adapter in (None, "demo/tests-medusa")
    for drafts in (
        Speculation(Method.NONE),
        Speculation(),
        Speculation(
            Method.PROMPT_LOOKUP, 6, reference="def read(self, value):\n    return value\n"
        ),
    )
]


@contextmanager
def real_worker(listen: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with process("-m", "lorax_spec.cli", "worker", "--listen", listen) as (child, ready):
        word, address = ready.split()
        assert word == "ready"
        yield child, address


def expected(requests: list[GenerateRequest]) -> list[Response]:
    with Engine() as engine:
        return engine.generate(requests)


async def streamed(running: House, request: GenerateRequest) -> Response:
    async for message in running.stub.GenerateStream(request_to_pb(request), timeout=60):
        event = stream_from_pb(message)
        if event.details is not None:
            return Response(event.generated_text or "", event.details)
    raise AssertionError("no details")


async def whole(running: House, request: GenerateRequest) -> Response:
    return response_from_pb(await running.stub.Generate(request_to_pb(request), timeout=60))


def same(ours: Response, theirs: Response) -> None:
    assert ours.generated_text == theirs.generated_text
    assert ours.details.finish_reason == theirs.details.finish_reason
    assert ours.details.seed == theirs.details.seed
    assert [token.id for token in ours.details.tokens] == [
        token.id for token in theirs.details.tokens
    ]
    assert [token.logprob for token in ours.details.tokens] == pytest.approx(
        [token.logprob for token in theirs.details.tokens], abs=1e-3
    )


def test_the_server_answers_as_the_engine_does(tmp_path: Path) -> None:
    async def main() -> list[Any]:
        with real_worker(f"unix:{tmp_path}/worker.sock") as (_, address):
            async with house(address) as running:
                calls = [whole(running, request) for request in REQUESTS]
                calls += [streamed(running, request) for request in REQUESTS]
                calls += [whole(running, request) for request in BEST]
                answers = await asyncio.gather(*calls)
                adapters = await running.stub.ListAdapters(pb.ListAdaptersRequest())
                tiers = {one.adapter_id: one.tier for one in adapters.adapters}
                assert tiers["demo/medusa"] == tiers["demo/pirate"] == "device"
                await running.stub.UnloadAdapter(
                    pb.UnloadAdapterRequest(adapter_id="demo/medusa"), timeout=5
                )
                return [*answers]

    here = expected([*REQUESTS, *BEST])
    singles, best = here[: len(REQUESTS)], here[len(REQUESTS) :]
    for ours, theirs in zip(asyncio.run(main()), [*singles, *singles, *best], strict=True):
        same(ours, theirs)
    for group in (best[:3], best[3:]):
        assert len({one.generated_text for one in group}) == 1, "speculation changed the answer"


def test_a_killed_worker_changes_no_token(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/worker.sock"

    async def main() -> list[Response]:
        with real_worker(listen) as (first, address):
            async with house(address) as running:
                calls = [asyncio.create_task(streamed(running, one)) for one in REQUESTS]
                await asyncio.sleep(0.15)
                first.kill()
                assert not all(call.done() for call in calls)
                with real_worker(listen):
                    return list(await asyncio.gather(*calls))

    for ours, theirs in zip(asyncio.run(main()), expected(REQUESTS), strict=True):
        same(ours, theirs)
