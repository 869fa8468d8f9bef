"""Figures: few however many adapters there are, the very sums of what was answered, documented."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from lorax_spec.engine.request import Emitted, EmittedToken
from lorax_spec.router import metrics as m
from lorax_spec.router.adapter_labels import OTHER, AdapterLabels
from lorax_spec.router.figures import SequenceFigures
from lorax_spec.router.metrics import DECLARED, Metrics
from lorax_spec.router.metrics_page import page
from lorax_spec.router.state import note_moves
from lorax_spec.types import (
    BASE_MODEL,
    AdapterMove,
    Details,
    DrafterCounts,
    FinishReason,
    SpeculationDetails,
    Timings,
)
from lorax_spec.v1 import lorax_spec_pb2 as pb
from tests.router.house import House, events, house, request
from tests.worker.processes import fake_worker

ROOT = Path(__file__).parents[2]
SAMPLES = {sample for one in DECLARED for sample in one.samples}


def within(test: Callable[[House], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        with fake_worker(step_seconds=0.002) as (_, address):
            async with house(address, **options) as running:
                await test(running)

    asyncio.run(main())


def test_thousands_of_adapters_have_few_labels() -> None:
    dropped: list[str] = []
    labels = AdapterLabels(10, dropped.append)
    for turn in range(20_000):
        labels.use(f"adapter-{turn % 5000}")
    own = {labels.look(f"adapter-{n}") for n in range(5000)}
    assert own == {*(f"adapter-{n}" for n in range(10)), OTHER}
    assert dropped == [], "nobody is used more than another"
    assert len(labels._candidates) <= 80


def test_the_most_used_have_labels() -> None:
    dropped: list[str] = []
    labels = AdapterLabels(10, dropped.append)
    for n in range(10):
        labels.use(f"early-{n}")
    for turn in range(3000):
        labels.use(f"busy-{turn % 7}")
        labels.use(f"rare-{turn}")
    assert {labels.look(f"busy-{n}") for n in range(7)} == {f"busy-{n}" for n in range(7)}
    assert labels.look("rare-2999") == OTHER
    assert len(dropped) == len(set(dropped)) == 7
    assert labels.look("") == labels.use(BASE_MODEL) == BASE_MODEL


def test_a_label_that_is_dropped_takes_its_series_along() -> None:
    metrics = Metrics(most_adapters=3)
    for n in range(2000):
        adapter = f"a{n}" if n < 5 or n % 2 else "busy"
        label = metrics.labels.use(adapter)
        metrics.add(m.ADAPTER_REQUESTS, adapter=label, outcome="ok")
        metrics.observe(m.ADAPTER_QUEUE_SECONDS, 0.1, adapter=label)
        metrics.add(m.GENERATED_TOKENS)
    text = asyncio.run(metrics.exposition()).decode()
    assert len(set(re.findall(r'adapter="([^"]*)"', text))) == 4
    assert metrics.value("lorax_spec_adapter_requests_total", adapter="busy", outcome="ok") > 900
    assert metrics.value("lorax_spec_generated_tokens_total") == 2000
    assert text.count("\n") < 400


def test_what_adapters_did_is_told_by_stage() -> None:
    metrics = Metrics()
    note_moves(
        metrics,
        [
            AdapterMove("demo/a", "read", 0.25),
            AdapterMove("demo/a", "copy", 0.5),
            AdapterMove("", "read", 1.0),
            AdapterMove("demo/a", "evict"),
        ],
    )
    seconds = "lorax_spec_adapter_load_seconds"
    assert metrics.value(f"{seconds}_sum", stage="read") == 1.25
    assert metrics.value(f"{seconds}_count", stage="copy") == 1
    stage = "lorax_spec_adapter_stage_seconds_sum"
    assert metrics.value(stage, adapter="demo/a", stage="read") == 0.25
    assert metrics.value(stage, adapter="merged", stage="read") == 1.0
    assert metrics.value("lorax_spec_adapter_evictions_total") == 1


def test_the_sums_are_those_of_the_answers() -> None:
    async def test(house: House) -> None:
        metrics = house.router.metrics
        calls = [house.stub.Generate(request(f"x{n}", 5 + n)) for n in range(4)]
        calls += [house.stub.Generate(request(f"y{n}", 9, "demo/one")) for n in range(3)]
        whole = (await house.stub.Generate(request("x", 500))).generated_text
        stopped = house.stub.Generate(request("x", 500, stop=(whole[20:24],)))
        answers = [(await call).details for call in (*calls, stopped)]
        *_, last = await events(house.stream("z", 12, adapter_id="demo/one"))
        assert last.details is not None
        told: list[Any] = [*answers, last.details]
        told.append((await house.stub.Generate(request("x", 500))).details)
        told.append(told[-1])  # the one that gave the stop string

        def total(name: str, **labels: str) -> float:
            return metrics.value(f"lorax_spec_{name}_total", **labels)

        for name in ("prompt_tokens", "generated_tokens", "skipped_tokens"):
            assert total(name) == sum(getattr(one, name) for one in told) > 0, name
        speculation = [one.speculation for one in told]
        assert total("forward_passes") == sum(one.forward_passes for one in speculation)
        for name in ("drafted_tokens", "accepted_tokens"):
            sums = sum(getattr(one, name) for one in speculation)
            assert total(name, drafter="medusa") == sums > 0, name
        one = [*answers[4:7], last.details]
        assert total("adapter_generated_tokens", adapter="demo/one") == sum(
            each.generated_tokens for each in one
        )
        assert total("adapter_drafted_tokens", adapter="demo/one", drafter="medusa") == sum(
            each.speculation.drafted_tokens for each in one
        )
        assert total("requests", protocol="grpc", outcome="ok") == len(told)
        assert total("adapter_requests", adapter="demo/one", outcome="ok") == len(one)
        ends = metrics.value("lorax_spec_queue_seconds_count")
        assert ends == len(told) - 1, "a stop string ends it before the worker tells its times"
        assert metrics.value("lorax_spec_first_token_seconds_count") == len(told)
        assert metrics.value("lorax_spec_inter_token_seconds_count") > 100

    within(test)


def test_what_a_stop_string_cuts_off_does_not_count() -> None:
    """A step of three right guesses, of which the caller is told one."""
    guessed = tuple(EmittedToken(n, -1.0, "medusa") for n in range(3))
    came = Emitted(1, (*guessed, EmittedToken(3, -1.0)), guesses(5, 3))
    told = Details(
        FinishReason.STOP_SEQUENCE, 7, 1, 1, None, (), (), guesses(5, 1), Timings(first_token=0.5)
    )
    for finished, counted in ((True, (1, 1, 1)), (False, (4, 3, 3))):
        metrics = Metrics()
        figures = SequenceFigures(7, metrics, lambda: 0.0)
        figures.note([came])
        if finished:
            figures.finish(told)
        figures.count("a")
        accepted = metrics.value("lorax_spec_accepted_tokens_total", drafter="medusa")
        names = ("generated_tokens", "skipped_tokens")
        found = [metrics.value(f"lorax_spec_{name}_total") for name in names]
        assert (*found, accepted) == counted
        assert metrics.value("lorax_spec_first_token_seconds_count") == finished


def guesses(drafted: int, accepted: int) -> SpeculationDetails:
    return SpeculationDetails(drafted, accepted, 1, {"medusa": DrafterCounts(drafted, accepted)})


def test_every_end_is_an_outcome() -> None:
    async def test(house: House) -> None:
        metrics = house.router.metrics

        def ended(outcome: str) -> float:
            return metrics.value("lorax_spec_requests_total", protocol="grpc", outcome=outcome)

        async def fails(text: str = "x", count: int = 4, adapter: str | None = None) -> None:
            with pytest.raises(grpc.aio.AioRpcError):
                await house.stub.Generate(request(text, count, adapter))

        for n in range(3):
            await fails(adapter=f"nobody/{n}")
        await fails(adapter="demo/misfit")
        await fails(text="")
        call = house.stream("x", 1500)
        await call.read()
        call.cancel()
        async with asyncio.timeout(5):
            while not ended("cancelled"):
                await asyncio.sleep(0.01)
        assert ended("adapter_not_found") == 3
        assert ended("adapter_mismatch") == ended("invalid_argument") == 1
        assert metrics.value("lorax_spec_generated_tokens_total") > 0, "of the one that left"
        text = (await metrics.exposition()).decode()
        assert "nobody" not in text, "callers name what they like"
        failed = {"adapter": OTHER, "outcome": "adapter_not_found"}
        assert metrics.value("lorax_spec_adapter_requests_total", **failed) == 3

    within(test)


def test_workers_are_seen() -> None:
    async def test(house: House) -> None:
        metrics = house.router.metrics
        await house.stub.LoadAdapter(pb.LoadAdapterRequest(adapter_id="demo/one"))
        link = house.router.pool.links[0]
        async with asyncio.timeout(5):
            while not (
                metrics.value("lorax_spec_adapter_load_seconds_count", stage="read")
                and link.load.device_adapters
            ):
                await asyncio.sleep(0.01)
        families = list(text_string_to_metric_families((await metrics.exposition()).decode()))
        samples = {
            (one.name, *one.labels.values()): one.value for f in families for one in f.samples
        }
        assert samples["lorax_spec_workers",] == samples["lorax_spec_workers_expected",] == 1
        assert samples["lorax_spec_worker_device_adapters", link.address] == 1
        assert samples["lorax_spec_worker_free_kv_tokens", link.address] == 4000
        assert samples["lorax_spec_requests_capacity",] == 100
        assert {family.name for family in families} == {one.name for one in DECLARED}

    within(test)


def test_names_are_declared_once_and_end_as_prometheus_wants() -> None:
    assert len(SAMPLES) == sum(len(one.samples) for one in DECLARED)
    assert all(one.help.endswith(".") and one.name.startswith("lorax_spec_") for one in DECLARED)


def test_the_manual_says_what_is_declared() -> None:
    """Write it anew with ``python -m lorax_spec.router.metrics_page > docs/metrics.md``."""
    assert (ROOT / "docs" / "metrics.md").read_text() == page()


def test_the_dashboard_asks_for_what_is_declared() -> None:
    board = json.loads((ROOT / "docker" / "grafana" / "dashboard.json").read_text())
    questions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    asked = {name for text in questions for name in re.findall(r"\blorax_spec_\w+", text)}
    assert len(questions) >= 15
    assert asked - SAMPLES == set()
    labels = {label for one in DECLARED for label in one.labels} | {"le"}
    grouped = {
        label.strip()
        for text in questions
        for group in re.findall(r"\bby \(([^)]*)\)", text)
        for label in group.split(",")
    }
    assert grouped - labels == set()
