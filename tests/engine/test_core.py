"""The engine's heart on the embedded model: what ends, resumes, is refused and is counted."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from lorax_spec.adapters.lease import Lease
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import Emitted, Event, Failed, Finished, TokenRequest
from lorax_spec.errors import AdapterMismatch, AdapterNotFound, InvalidArgument
from lorax_spec.types import FinishReason, Method, Timings
from tests.conformance.running import Outcome, run
from tests.engine.conftest import NewRequest
from tests.engine.watch import planned

Prompts = dict[str, list[tuple[int, ...]]]


def alone(core: EngineCore, request: TokenRequest) -> Outcome:
    return run(core, [request])[0]


def free(core: EngineCore) -> int:
    return core._scheduler.pool.free


def adapters_in_use(core: EngineCore) -> list[str]:
    return [adapter.adapter_id for adapter in core.adapters.list() if adapter.in_use]


def test_cancelling_frees_blocks_at_once(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    before = free(core)
    decoding, waiting = (new_request(prompts["rename"][i], 100) for i in (0, 3))
    core.submit(decoding)
    core.step()
    core.step()
    core.submit(waiting)
    assert free(core) < before
    core.cancel(decoding.request_id)
    assert free(core) == before
    core.cancel(waiting.request_id)
    core.check_integrity()
    assert not core.has_work
    core.cancel(decoding.request_id)


def test_cancelling_in_the_middle_of_a_prompt(
    tight: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    before = free(tight)
    request = new_request(prompts["code"][0], 5, adapter="pirate")
    tight.submit(request)
    while not tight._scheduler.running:
        tight.step()
    assert tight.step() == []
    assert free(tight) < before
    assert adapters_in_use(tight) == ["pirate"]
    tight.cancel(request.request_id)
    assert free(tight) == before
    assert adapters_in_use(tight) == []
    tight.check_integrity()


@pytest.mark.parametrize(
    ("generated", "reason"),
    [((50, 51, 52), FinishReason.LENGTH), ((50, 2), FinishReason.EOS_TOKEN)],
)
def test_a_request_that_came_complete_ends_at_once(
    core: EngineCore, new_request: NewRequest, generated: tuple[int, ...], reason: FinishReason
) -> None:
    request = new_request((5, 6, 7), 3, adapter="pirate", generated=generated)
    core.submit(request)
    assert core.has_work
    (event,) = core.step()
    assert isinstance(event, Finished)
    assert (event.request_id, event.reason) == (request.request_id, reason)
    assert event.timings == Timings()
    assert event.speculation.forward_passes == 0
    assert not core.has_work
    assert adapters_in_use(core) == []
    core.check_integrity()


RESUMED: list[dict[str, Any]] = [
    {"method": Method.PROMPT_LOOKUP, "num_tokens": 4},
    {
        "temperature": 0.9,
        "seed": 11,
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.4,
        "presence_penalty": 0.2,
        "method": Method.MEDUSA,
        "adapter": "tests-medusa",
    },
]


@pytest.mark.parametrize("options", RESUMED)
def test_a_moved_request_continues_exactly(
    core: EngineCore, tight: EngineCore, prompts: Prompts, new_request: NewRequest, options: Any
) -> None:
    """Tokens and logprobs to the bit (promise P5): the first part's come from another engine."""
    prompt = prompts["rename"][0]
    whole = alone(core, new_request(prompt, 14, **options))
    for cut in (1, 6, 13):
        sent = tuple(whole.ids[:cut])
        rest = alone(tight, new_request(prompt, 14, generated=sent, **options))
        assert _said(rest) == _said(whole)[cut:]
        assert rest.reason == whole.reason


def _said(outcome: Outcome) -> list[tuple[int, float]]:
    return [(token.id, token.logprob) for token in outcome.tokens]


@pytest.mark.parametrize("method", [Method.PROMPT_LOOKUP, Method.MEDUSA])
def test_max_new_tokens_cuts_inside_an_accepted_run(
    core: EngineCore, prompts: Prompts, new_request: NewRequest, method: Method
) -> None:
    options: dict[str, Any] = {"method": method, "num_tokens": 8, "adapter": "medusa"}
    prompt = prompts["rename"][0]
    whole = alone(core, new_request(prompt, 16, **options))
    assert whole.speculation.accepted_tokens > 4
    for count in range(1, 16):
        cut = alone(core, new_request(prompt, count, **options))
        assert _said(cut) == _said(whole)[:count]
        assert cut.reason is FinishReason.LENGTH


def test_a_sequence_fills_its_room_to_the_last_token(
    tight: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    """A draft longer than the room left changes nothing, and needs no block that is not there."""
    limit = tight.info.max_total_tokens
    prompt = (prompts["code"][0] * 2)[: limit - 9]
    plain = alone(tight, new_request(prompt, 9, ignore_eos_token=True))
    options: dict[str, Any] = {"ignore_eos_token": True, "num_tokens": 63, "adapter": "medusa"}
    for method in (Method.PROMPT_LOOKUP, Method.MEDUSA):
        outcome = alone(tight, new_request(prompt, 50, method, **options))
        assert _said(outcome) == _said(plain)
        assert outcome.reason is FinishReason.LENGTH


def test_heads_that_are_not_there_are_refused(core: EngineCore, new_request: NewRequest) -> None:
    prompt = (5, 6, 7)
    requests = [
        new_request(prompt, method=Method.MEDUSA),
        new_request(prompt, method=Method.MEDUSA, adapter="pirate"),
        new_request(prompt, method=Method.AUTO, adapter="pirate", medusa="tests"),
        new_request(prompt, method=Method.MEDUSA, adapter="nowhere"),
        new_request(prompt, 3),
    ]
    outcomes = run(core, requests)
    assert [type(outcome.error) for outcome in outcomes] == [
        AdapterMismatch,
        AdapterMismatch,
        AdapterMismatch,
        AdapterNotFound,
        type(None),
    ]
    for outcome, name in zip(outcomes, ("base model", "'pirate'", "'tests'"), strict=False):
        assert outcome.error is not None
        assert name in outcome.error.message
    assert len(outcomes[-1].ids) == 3


def test_a_request_that_could_never_run_fails_and_the_others_go_on(
    core: EngineCore, new_request: NewRequest
) -> None:
    """One that fits no cache would wait for ever, with everyone behind it; an id beyond the
    vocabulary would end the engine."""
    requests = [
        new_request((), 3),
        new_request((5,) * core.info.max_total_tokens, 3),
        new_request((5, 4096), 3),
        new_request((-1, 5), 3),
        new_request((5,), 3, generated=(5000,)),
        new_request((5,) * (core.info.max_total_tokens - 1), 3),
    ]
    biased = new_request((5, 6), 3, logit_bias={4096: 1.0})
    misfit, *outcomes = run(core, [biased, *requests])
    assert isinstance(misfit.error, InvalidArgument)
    assert misfit.error.field == "parameters.logit_bias"
    for outcome in outcomes[:-1]:
        assert isinstance(outcome.error, InvalidArgument)
        assert outcome.error.field == "inputs"
    assert outcomes[-1].error is None
    assert len(outcomes[-1].ids) == 1


def test_a_bias_beyond_the_vocabulary_fails_alone(
    core: EngineCore, new_request: NewRequest
) -> None:
    wrong, sound = run(core, [new_request((5,), 3, logit_bias={5000: 1.0}), new_request((5,), 3)])
    assert isinstance(wrong.error, InvalidArgument)
    assert wrong.error.field == "parameters.logit_bias"
    assert len(sound.ids) == 3


class _LateLease:
    """An adapter that arrives between two looks at its lease, as another thread can make it."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease
        self.looks = 0

    @property
    def ready(self) -> bool:
        self.looks += 1
        return self.looks > 1 and self._lease.ready

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lease, name)


def test_an_adapter_that_arrives_during_a_step_is_not_overlooked(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    """Or its request would run on the base model."""
    prompt = prompts["rename"][0]
    expected = alone(core, new_request(prompt, 6, adapter="pirate"))
    request = new_request(prompt, 6, adapter="pirate")
    core.submit(request)
    sequence = core._sequences[request.request_id]
    while not sequence.lease.ready:
        pass
    sequence.lease = _LateLease(sequence.lease)  # type: ignore[assignment]
    tokens: list[int] = []
    while request.request_id in core._sequences:
        for event in core.step():
            assert isinstance(event, Emitted | Finished)
            if isinstance(event, Emitted):
                tokens += [token.id for token in event.tokens]
    assert tokens == expected.ids


def test_an_adapter_that_cannot_be_read_frees_everything(
    core: EngineCore, new_request: NewRequest
) -> None:
    request = new_request((5, 6, 7), 5, adapter="missing", medusa="medusa")
    core.submit(request)
    events: list[Event] = []
    while not events:
        events = core.step()
    assert [type(event) for event in events] == [Failed]
    assert not core.has_work
    core.check_integrity()


def test_counts_and_times_add_up(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    request = new_request(prompts["rename"][0], 12, Method.PROMPT_LOOKUP, 5)
    core.submit(request)
    emitted: list[Emitted] = []
    finished = None
    while finished is None:
        for event in core.step():
            if isinstance(event, Finished):
                finished = event
            else:
                assert isinstance(event, Emitted)
                emitted.append(event)
    speculation = finished.speculation
    tokens = [token for event in emitted for token in event.tokens]
    drafted = [token for token in tokens if token.drafter]
    assert {token.drafter for token in drafted} == {"prompt_lookup"}
    assert speculation.accepted_tokens == len(drafted) == 12 - len(emitted)
    assert speculation.forward_passes == len(emitted)
    assert speculation.drafters["prompt_lookup"].drafted_tokens == speculation.drafted_tokens
    assert speculation.drafters["prompt_lookup"].accepted_tokens == len(drafted)
    timings = finished.timings
    assert all(seconds >= 0 for seconds in dataclasses.astuple(timings))
    assert timings.adapter_load < 0.01, "there was none to load"
    assert timings.total >= timings.first_token >= timings.prefill > 0
    assert timings.per_token * 11 == pytest.approx(timings.total - timings.first_token, abs=0.01)


@pytest.mark.parametrize(
    ("method", "adapter"),
    [
        (Method.AUTO, None),
        (Method.PROMPT_LOOKUP, "medusa"),
        (Method.MEDUSA, "medusa-v1"),
        (Method.AUTO, "tests-medusa"),
    ],
)
@pytest.mark.parametrize("number", [0, 1, 3, 11])
def test_a_given_number_of_tokens_is_drafted_in_every_step(
    core: EngineCore,
    prompts: Prompts,
    new_request: NewRequest,
    method: Method,
    adapter: str | None,
    number: int,
) -> None:
    """Until the room for them ends; the first step has no draft yet, and where prompt lookup
    finds nothing, there is nothing to draft."""
    prompt, new_tokens = prompts["rename"][0], 16
    with planned(core) as rows:
        outcome = alone(core, new_request(prompt, new_tokens, method, number, adapter))
    lookup = adapter is None or method is Method.PROMPT_LOOKUP
    last_start = len(prompt) + new_tokens - 2 - (number if lookup else 4)
    drafts = {row.draft for row in rows[1:] if row.start <= last_start}
    misses = {0} if lookup and number else set()
    assert drafts - misses == {number}
    assert rows[0].draft == 0
    assert outcome.speculation.drafted_tokens == sum(row.draft for row in rows)
