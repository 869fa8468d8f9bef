"""``response_format`` in the engine: what is permitted, who waits, what is drafted."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest
import torch

from lorax_spec import embedded
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.drafting.grammar import GrammarDrafter, allowed
from lorax_spec.engine.grammar import formats
from lorax_spec.engine.request import Failed, TokenRequest
from lorax_spec.engine.sampling import Place, SamplingRule, choose
from lorax_spec.engine.sequence import Sequence
from lorax_spec.errors import InvalidArgument
from lorax_spec.speculation.offer import Offer
from lorax_spec.speculation.tree import EMPTY, ROOT, DraftTree
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.types import FinishReason, Method, ResponseFormat
from tests.conformance.running import Outcome, run
from tests.engine.conftest import NewRequest
from tests.engine.watch import drafting, looking
from tests.properties.grammars import constraint, satisfies

Prompts = dict[str, list[tuple[int, ...]]]
EOS = 2
LONG_KEYS = ResponseFormat(
    "json_schema",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "classification_of_the_report": {"enum": ["urgent", "routine"]},
                "requires_human_attention": {"type": "boolean"},
                "name": {"type": "string", "maxLength": 9},
            },
            "required": [
                "classification_of_the_report",
                "requires_human_attention",
                "name",
            ],
        }
    ),
)
REGEX = ResponseFormat("regex", "[a-z]{3,6}-[0-9]{2}")
CHOICE = ResponseFormat("choice", '["yes, certainly", "yes", "no, never"]')
ANY_JSON = ResponseFormat("json_object")


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.load(embedded.path() / "base")


def said(outcome: Outcome) -> list[tuple[int, float]]:
    return [(token.id, token.logprob) for token in outcome.tokens]


def text_of(outcome: Outcome, tokenizer: TextTokenizer) -> str:
    return tokenizer.decode(outcome.ids)


@pytest.mark.parametrize("wanted", [LONG_KEYS, REGEX, CHOICE])
@pytest.mark.parametrize("temperature", [0.0, 1.2])
def test_a_finished_text_follows_its_grammar(
    core: EngineCore,
    prompts: Prompts,
    new_request: NewRequest,
    tokenizer: TextTokenizer,
    wanted: ResponseFormat,
    temperature: float,
) -> None:
    requests = [
        new_request(prompt, 120, temperature=temperature, seed=seed, response_format=wanted)
        for seed, prompt in enumerate([*prompts["code"][:2], *prompts["doc"][:2]])
    ]
    outcomes = run(core, requests)
    for outcome in outcomes:
        assert outcome.reason is FinishReason.EOS_TOKEN
        assert satisfies(text_of(outcome, tokenizer), wanted)
    assert [said(o) for o in run(core, map(again, requests))] == [said(o) for o in outcomes]


def again(request: TokenRequest) -> TokenRequest:
    return replace(request, request_id=request.request_id + 100_000)


def test_no_bias_brings_back_what_is_banned(
    core: EngineCore, prompts: Prompts, new_request: NewRequest, tokenizer: TextTokenizer
) -> None:
    bias = dict.fromkeys(tokenizer.encode("x y z @"), 100.0) | {EOS: 100.0, 1: 100.0}
    request = new_request(prompts["code"][0], 30, response_format=REGEX, logit_bias=bias)
    outcome = run(core, [request])[0]
    assert satisfies(text_of(outcome, tokenizer), REGEX)


def test_filters_share_among_what_is_permitted() -> None:
    """Top-k counts permitted tokens only; were the ban applied later, none would be left."""
    row = torch.tensor([[9.0, 8.0, 1.0, 0.5, 0.0]])
    banned = torch.tensor([True, True, False, False, True])
    for rule in (SamplingRule(), SamplingRule(0.9, top_k=2, seed=1), SamplingRule(0.5, top_p=0.5)):
        places = [Place(0, p, rule, None, banned) for p in range(40)]
        tokens = {chosen.token for chosen in choose(row, places)}
        assert tokens <= {2, 3}
        free = choose(row, [Place(0, 0, SamplingRule(), None), places[0]])
        assert free[0].token == 0, "a neighbour is not touched"
    chosen = choose(row, [Place(0, 0, SamplingRule(alternatives=1), None, banned)])[0]
    assert chosen.logprob == pytest.approx(float(row[0].log_softmax(-1)[2]))
    assert chosen.alternatives[0][0] == 0, "alternatives are those of the raw logits"


def test_a_complete_text_ends_even_where_ends_are_ignored(
    core: EngineCore, prompts: Prompts, new_request: NewRequest, tokenizer: TextTokenizer
) -> None:
    request = new_request(
        prompts["code"][0], 60, response_format=CHOICE, ignore_eos_token=True, logit_bias={EOS: -99}
    )
    outcome = run(core, [request])[0]
    assert outcome.reason is FinishReason.EOS_TOKEN
    assert satisfies(text_of(outcome, tokenizer), CHOICE)


def test_a_json_object_is_the_default_schema(
    core: EngineCore, prompts: Prompts, new_request: NewRequest, tokenizer: TextTokenizer
) -> None:
    requests = [
        new_request(prompt, 50, temperature=1.0, seed=seed, response_format=ANY_JSON)
        for seed, prompt in enumerate(prompts["doc"][:3] * 3)
    ]
    finished = 0
    for outcome in run(core, requests):
        text = text_of(outcome, tokenizer)
        assert text.startswith("{")
        if outcome.reason is FinishReason.EOS_TOKEN:
            finished += 1
            assert isinstance(json.loads(text), dict)
    assert finished


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_a_moved_request_goes_on_as_it_would_have(
    core: EngineCore, prompts: Prompts, new_request: NewRequest, temperature: float
) -> None:
    options = {"temperature": temperature, "seed": 5, "response_format": LONG_KEYS}
    prompt = prompts["code"][1]
    whole = run(core, [new_request(prompt, 120, **options)])[0]
    for count in (1, 7, len(whole.ids) - 1, len(whole.ids)):
        moved = new_request(prompt, 120, Method.AUTO, generated=tuple(whole.ids[:count]), **options)
        rest = run(core, [moved])[0]
        assert said(rest) == said(whole)[count:]
        assert rest.reason is FinishReason.EOS_TOKEN


def test_a_moved_request_with_foreign_tokens_fails_alone(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    prompt = prompts["code"][1]
    bad = new_request(prompt, 20, generated=(9, 9, 9), response_format=CHOICE)
    failed, fine = run(core, [bad, new_request(prompt, 5)])
    assert isinstance(failed.error, InvalidArgument)
    assert failed.error.field == "parameters.response_format"
    assert fine.reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    "wanted",
    [
        ResponseFormat("regex", "(["),
        ResponseFormat("regex", "(?=a)b"),
        ResponseFormat("json_schema", '{"type": 3}'),
        ResponseFormat("json_schema", '{"type": "integer", "minimum": 5, "maximum": 3}'),
        ResponseFormat("json_schema", '{"type": "string", "pattern": "(["}'),
        ResponseFormat("choice", "no JSON"),
        ResponseFormat("xml", "<a/>"),
    ],
)
def test_what_does_not_compile_fails_alone(
    core: EngineCore, prompts: Prompts, new_request: NewRequest, wanted: ResponseFormat
) -> None:
    """Twice, since a failure is remembered."""
    prompt = prompts["code"][0]
    alone = run(core, [new_request(prompt, 6)])[0]
    for _ in range(2):
        failed, fine = run(
            core, [new_request(prompt, 6, response_format=wanted), new_request(prompt, 6)]
        )
        assert isinstance(failed.error, InvalidArgument)
        assert failed.error.field == "parameters.response_format"
        assert "/project/" not in failed.error.message
        assert said(fine) == said(alone)


def test_nobody_waits_for_anothers_grammar(
    core: EngineCore,
    prompts: Prompts,
    new_request: NewRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a grammar compiles, others run to their end; then its request runs too."""
    release, woken = threading.Event(), threading.Event()
    original = formats.compile_format

    def slowly(*arguments: object) -> object:
        release.wait(30)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(formats, "compile_format", slowly)
    core.adapters.set_wakeup(woken.set)
    wanted = ResponseFormat("regex", "slow{2,5}")
    core.submit(new_request(prompts["code"][0], 8, response_format=wanted))
    other = new_request(prompts["code"][1], 12)
    core.submit(other)
    events = [event for _ in range(40) if core.has_work for event in core.step()]
    assert {event.request_id for event in events} == {other.request_id}
    assert not core.has_work
    woken.clear()
    release.set()
    assert woken.wait(30)
    assert core.has_work
    while core.has_work:
        events += core.step()
    assert not any(isinstance(event, Failed) for event in events)
    core.adapters.set_wakeup(lambda: None)


def test_a_cancelled_request_may_still_be_compiling(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    request = new_request(prompts["code"][0], 8, response_format=ResponseFormat("regex", "[p-r]+"))
    core.submit(request)
    core.cancel(request.request_id)
    core.check_integrity()
    assert not core.has_work


@pytest.mark.slow
def test_speculation_and_preemption_change_nothing(
    core: EngineCore, tight: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    def batch(method: Method) -> list[TokenRequest]:
        kinds = [LONG_KEYS, None, REGEX, LONG_KEYS, CHOICE, None]
        texts = [*prompts["rename"][:3], *prompts["code"][:3]]
        return [
            new_request(
                text[:60],
                90,
                method,
                None if index < 3 else 8,
                adapter="medusa" if index % 2 else None,
                temperature=index % 3 * 0.6,
                seed=index,
                repetition_penalty=1.2 if index > 2 else None,
                response_format=wanted,
                ignore_eos_token=wanted is None,
            )
            for index, (text, wanted) in enumerate(zip(texts, kinds, strict=True))
        ]

    alone = [run(core, [request])[0] for request in batch(Method.NONE)]
    preempted = tight._scheduler.preemptions
    crowd = run(tight, batch(Method.AUTO))
    assert tight._scheduler.preemptions > preempted
    assert [said(outcome) for outcome in crowd] == [said(outcome) for outcome in alone]
    drafters = {drafter for outcome in crowd for drafter in outcome.speculation.drafters}
    assert {"grammar", "medusa"} <= drafters
    assert all(outcome.speculation.drafted_tokens == 0 for outcome in alone)


def test_what_is_forced_costs_no_forward(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    """Long keys and small choices: more than half of the tokens come as guesses of the grammar."""
    for prompt in (prompts["code"][0], prompts["doc"][0]):
        request = new_request(prompt, 120, Method.AUTO, 12, response_format=LONG_KEYS)
        outcome = run(core, [request])[0]
        assert outcome.reason is FinishReason.EOS_TOKEN
        assert outcome.speculation.drafters["grammar"].accepted_tokens > len(outcome.ids) / 2
        assert outcome.speculation.forward_passes < len(outcome.ids) / 2


def test_any_draft_at_all_changes_nothing(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    """Forbidden guesses, ends in the middle, and the right text beside them."""
    options = {"response_format": LONG_KEYS, "temperature": 0.8, "seed": 3}
    plain = run(core, [new_request(prompts["doc"][1], 90, **options)])[0]

    def wild(sequence: Sequence) -> DraftTree:
        right = plain.ids[sequence.generated :][: min(5, sequence.draft_room)]
        tokens, parents = [EOS, 1, 77], [ROOT, ROOT, 1]
        parent = ROOT
        for token in right:
            if (parent, token) not in zip(parents, tokens, strict=True):
                tokens.append(token)
                parents.append(parent)
                parent = len(tokens) - 1
            else:
                break
        return DraftTree(tuple(tokens), tuple(parents), ("wild",) * len(tokens))

    with drafting(core, wild):
        drafted = run(core, [new_request(prompts["doc"][1], 90, **options)])[0]
    assert said(drafted) == said(plain)
    assert drafted.speculation.forward_passes < len(plain.ids) / 2


def test_offers_are_pruned_before_they_cost_rows(
    core: EngineCore, prompts: Prompts, new_request: NewRequest, tokenizer: TextTokenizer
) -> None:
    """At the start of a choice: its own words stay, others go with all that hangs on them."""
    yes, no, other = (tokenizer.encode(word)[0] for word in ("yes", "no", "perhaps"))
    seen = []

    def look(sequence: Sequence) -> None:
        assert sequence.grammar is not None
        generated = sequence.generated
        sequence.grammar.back(generated)
        offer = Offer((yes, other, yes, no), (ROOT, ROOT, 1, ROOT), (0.2,) * 4, ("x",) * 4, True)
        seen.append(allowed(sequence, offer))
        sequence.grammar.follow_all(sequence.tokens[-generated:])
        sequence.draft = EMPTY

    with looking(core, look):
        run(core, [new_request(prompts["code"][0], 3, response_format=CHOICE)])
    pruned = Offer((yes, no), (ROOT, ROOT), (0.2,) * 2, ("x",) * 2, True)
    assert seen and set(seen) == {pruned}


def test_the_drafter_holds_nothing_of_ended_sequences(
    core: EngineCore, prompts: Prompts, new_request: NewRequest
) -> None:
    run(core, [new_request(prompts["code"][0], 60, Method.AUTO, response_format=LONG_KEYS)])
    drafter = core._drafting._drafters["grammar"]
    assert isinstance(drafter, GrammarDrafter)
    assert drafter._tastes == {}


def test_markup_is_no_text() -> None:
    """Any characters at all are permitted here, but not as a token whose text is never shown."""
    walker = constraint(ResponseFormat("regex", "[^z]+"))
    choices = set(walker.choices())
    assert len(choices) > 1000
    assert choices.isdisjoint({0, 1, 2, 3})
    assert not walker.follow(1) and not walker.follow(-1) and not walker.follow(4096)


def test_a_character_may_come_in_pieces() -> None:
    """Its first byte is chosen, the others are forced; they are no text by themselves."""
    walker = constraint(ResponseFormat("choice", '["😀!"]'))
    first = walker.vocabulary.letters["😀".encode()[:1]]
    assert walker.follow(first)
    assert walker.forced_text() == b""
    assert walker.choices()
