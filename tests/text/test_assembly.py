"""Events become text, tokens and counts, the same for any division into steps."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from lorax_spec.engine.request import Emitted, EmittedToken, Finished
from lorax_spec.text.assembly import ResponseBuilder
from lorax_spec.text.validate import Limits, ValidRequest, validate
from lorax_spec.types import (
    DrafterCounts,
    FinishReason,
    GenerateRequest,
    Parameters,
    Response,
    SpeculationDetails,
    StreamResponse,
    Timings,
)
from tests.text.samples import TOKENIZER, token_of_byte

PROMPT = "def f():"


def valid(parameters: Parameters | None = None) -> ValidRequest:
    request = GenerateRequest(PROMPT, parameters=parameters or Parameters())
    return validate(request, TOKENIZER, Limits(500, 1000))


def emit(
    tokens: list[EmittedToken], steps: list[int], request: ValidRequest
) -> tuple[list[StreamResponse], Response, ResponseBuilder]:
    """Feed ``tokens`` in steps of the given sizes, then the rest, then the end."""
    builder = ResponseBuilder(request, TOKENIZER, clock=lambda: 0.0)
    events: list[StreamResponse] = []
    accepted, rest = 0, list(tokens)
    for passes, size in enumerate([*steps, len(tokens)], start=1):
        now, rest = rest[:size], rest[size:]
        accepted += sum(bool(token.drafter) for token in now)
        counts = SpeculationDetails(99, accepted, passes, {"medusa": DrafterCounts(99, accepted)})
        if now:
            events += builder.add(Emitted(7, tuple(now), counts, (-0.5,) * (prompt_length() - 1)))
    events += builder.add(Finished(7, FinishReason.LENGTH, counts, Timings(queue=0.25)))
    assert builder.response is not None
    return events, builder.response, builder


def prompt_length() -> int:
    return len(TOKENIZER.encode(PROMPT))


def plain(text: str) -> list[EmittedToken]:
    return [EmittedToken(token_id, -1.0) for token_id in TOKENIZER.encode(text)]


TOKENS = st.lists(
    st.builds(
        EmittedToken,
        st.integers(0, TOKENIZER.vocab_size - 1) | st.sampled_from(TOKENIZER.encode("ab\néab ")),
        st.just(-1.0),
        st.sampled_from(["", "medusa"]),
    ),
    max_size=30,
)
STEPS = st.lists(st.integers(1, 5), max_size=30)
STOPS = st.lists(st.text("ab\né", min_size=1, max_size=3), max_size=3).map(tuple)


@given(TOKENS, STEPS, STOPS)
def test_steps_change_nothing(
    tokens: list[EmittedToken], steps: list[int], stops: tuple[str, ...]
) -> None:
    request = valid(Parameters(stop=stops))
    _, response, _ = emit(tokens, steps, request)
    _, other, _ = emit(tokens, [1] * len(tokens), request)
    assert response.generated_text == other.generated_text
    details = replace(response.details, speculation=SpeculationDetails())
    assert details == replace(other.details, speculation=SpeculationDetails())


@given(TOKENS, STEPS, STOPS)
def test_streamed_texts_are_the_whole(
    tokens: list[EmittedToken], steps: list[int], stops: tuple[str, ...]
) -> None:
    events, response, builder = emit(tokens, steps, valid(Parameters(stop=stops)))
    streamed = [event.token for event in events[:-1] if event.token is not None]
    assert len(streamed) == len(events) - 1
    assert events[-1] == StreamResponse(None, response.generated_text, response.details)
    assert tuple(streamed) == response.details.tokens
    assert "".join(token.text for token in streamed) == response.generated_text
    assert [token.id for token in streamed] == [token.id for token in tokens[: len(streamed)]]
    if builder.stopped:
        assert response.details.finish_reason is FinishReason.STOP_SEQUENCE
    else:
        assert response.generated_text == TOKENIZER.decode([token.id for token in tokens])


@given(TOKENS, STEPS, STOPS)
def test_only_kept_tokens_count_as_accepted(
    tokens: list[EmittedToken], steps: list[int], stops: tuple[str, ...]
) -> None:
    _, response, _ = emit(tokens, steps, valid(Parameters(stop=stops)))
    details = response.details
    assert details.generated_tokens == len(details.tokens)
    assert details.skipped_tokens == sum(bool(token.drafter) for token in details.tokens)
    assert details.speculation.accepted_tokens == details.skipped_tokens
    if tokens:
        assert details.speculation.drafters["medusa"].accepted_tokens == details.skipped_tokens


def test_a_stop_string_ends_the_request_at_once() -> None:
    builder = ResponseBuilder(valid(Parameters(stop=("\n\n",))), TOKENIZER)
    tokens = plain("a = 1\n\nb = 2\n\n")
    events = builder.add(Emitted(1, tuple(tokens), SpeculationDetails()))
    assert builder.stopped and builder.response is not None
    assert builder.response.generated_text == "a = 1"
    assert events[-1].details == builder.response.details
    assert builder.add(Finished(1, FinishReason.LENGTH, SpeculationDetails(), Timings())) == []


def test_an_accepted_run_that_is_cut_counts_what_it_kept() -> None:
    drafted = [replace(token, drafter="medusa") for token in plain("a = 1\n\nb = 2")]
    events, response, _ = emit(drafted, [], valid(Parameters(stop=(" = ",))))
    kept = len(events) - 1
    assert kept < len(drafted)
    assert response.details.skipped_tokens == kept
    counts = DrafterCounts(99, kept)
    assert response.details.speculation == SpeculationDetails(99, kept, 1, {"medusa": counts})


#: One step: how each of its accepted tokens came to be.
RUNS = st.lists(st.lists(st.sampled_from(["medusa", "prompt_lookup"]), max_size=5), min_size=1)


@given(RUNS, st.integers(0, 60))
def test_depths_count_what_was_kept(runs: list[list[str]], cut: int) -> None:
    """A stop string ends the answer somewhere; every count is that of the kept tokens."""
    word, stop = TOKENIZER.encode(" a")[-1], TOKENIZER.encode("!")[-1]
    builder = ResponseBuilder(valid(Parameters(stop=("!",))), TOKENIZER)
    drafters: dict[str, DrafterCounts] = {}
    kept: list[tuple[str, int]] = []
    place = 0
    for passes, run in enumerate(runs, start=1):
        tokens = []
        for depth, drafter in enumerate([*run, ""]):
            tokens.append(EmittedToken(stop if place == cut else word, -1.0, drafter))
            if drafter:
                drafters[drafter] = one_more(drafters.get(drafter), depth)
                if place <= cut:
                    kept.append((drafter, depth))
            place += 1
        counts = SpeculationDetails(
            99, sum(one.accepted_tokens for one in drafters.values()), passes, dict(drafters)
        )
        builder.add(Emitted(1, tuple(tokens), counts))
        if builder.response is not None:
            break
    else:
        builder.add(Finished(1, FinishReason.LENGTH, counts, Timings()))
    assert builder.response is not None
    details = builder.response.details.speculation
    assert details.accepted_tokens == len(kept)
    for name, one in details.drafters.items():
        depths = [depth for drafter, depth in kept if drafter == name]
        assert one.accepted_tokens == len(depths) == sum(one.accepted_by_depth)
        assert one.accepted_by_depth == tuple(map(depths.count, range(len(one.accepted_by_depth))))
        assert one.drafted_by_depth == drafters[name].drafted_by_depth


def one_more(counts: DrafterCounts | None, depth: int) -> DrafterCounts:
    """With one more node drafted and accepted, ``depth + 1`` tokens ahead."""
    counts = counts or DrafterCounts(0, 0, (0,) * 5, (0,) * 5)
    by_depth = tuple(n + (d == depth) for d, n in enumerate(counts.accepted_by_depth))
    accepted = counts.accepted_tokens + 1
    return DrafterCounts(accepted, accepted, by_depth, by_depth)


def test_a_stop_string_that_the_last_broken_character_completes() -> None:
    tokens = [EmittedToken(token_of_byte(0xC3), -1.0)]
    _, response, _ = emit(tokens, [], valid(Parameters(stop=("\ufffd",))))
    assert response.generated_text == ""
    assert response.details.finish_reason is FinishReason.STOP_SEQUENCE


def test_details() -> None:
    request = valid(
        Parameters(return_full_text=True, decoder_input_details=True, seed=5, temperature=0.5)
    )
    eos = EmittedToken(2, -0.25, "medusa", ((2, -0.25), (token_of_byte(65), -3.0)))
    _, response, _ = emit([*plain("pass"), eos], [], request)
    assert response.generated_text == PROMPT + "pass"
    details = response.details
    assert (details.prompt_tokens, details.seed) == (prompt_length(), 5)
    assert details.timings == Timings(queue=0.25)
    assert [token.logprob for token in details.prefill] == [None] + [-0.5] * (prompt_length() - 1)
    assert "".join(token.text for token in details.prefill) == PROMPT
    last = details.tokens[-1]
    assert (last.text, last.special, last.skipped, last.drafter) == ("", True, True, "medusa")
    assert [other.text for other in last.alternative_tokens] == ["<|im_end|>", "A"]


def test_without_details_only_the_counts_come() -> None:
    _, response, _ = emit(plain("pass"), [], valid(Parameters(details=False)))
    assert response.details.tokens == () and response.details.prefill == ()
    assert response.details.generated_tokens == len(plain("pass"))


def test_time_is_what_the_caller_saw() -> None:
    now = 10.0
    builder = ResponseBuilder(valid(), TOKENIZER, clock=lambda: now)
    now = 12.0
    builder.add(Emitted(1, tuple(plain("a")), SpeculationDetails()))
    now = 15.0
    builder.add(Emitted(1, tuple(plain("b")), SpeculationDetails()))
    builder.add(Finished(1, FinishReason.LENGTH, SpeculationDetails(), Timings(queue=1.0)))
    assert builder.response is not None
    expected = Timings(queue=1.0, first_token=2.0, per_token=3.0, total=5.0)
    assert builder.response.details.timings == expected
