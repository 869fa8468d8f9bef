"""Prompt lookup against LoRAX's rule and transformers' own, and what it costs to ask it.

Answers do not depend on drafting, so each is generated once, without; the rules then draft along
it, and what they guess is compared with what came.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, cast

import torch
from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

from lorax_spec import embedded
from lorax_spec.bench.conversations import SECOND_TURN, second_turns
from lorax_spec.bench.engine_side import EngineSide, drive
from lorax_spec.bench.report import Check, Report, Value
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.statistics import Estimate, ratio_of_sums
from lorax_spec.bench.workload import Prompt, prompts, worth_counting
from lorax_spec.engine.drafting.drafter import Turn
from lorax_spec.engine.drafting.lookup import PromptLookupDrafter
from lorax_spec.engine.engine import Engine
from lorax_spec.engine.request import TokenRequest
from lorax_spec.engine.sampling import SamplingRule
from lorax_spec.engine.sequence import Sequence as Row
from lorax_spec.engine.warmup import forward_seconds, rehearsal
from lorax_spec.speculation.offer import NOTHING, Offer, best
from lorax_spec.speculation.tree import EMPTY, ROOT, DraftTree, chain
from lorax_spec.types import Parameters

#: ``chat`` are second turns, ``question`` first ones that bring little to copy.
_GROUPS: dict[str, tuple[str, ...]] = {
    "edit": ("rename", "edit"),
    "chat": (SECOND_TURN,),
    "free": ("code", "prose"),
    "question": ("doc", "write"),
}
_LENGTHS = (3, 5, 10)
#: Nodes of a tree that is bounded as a server's ``--speculative-tokens`` bounds it: by its depth.
_BRANCHES = 3
_TEMPERATURES = (0.0, 0.8)
_AT_ONCE = 32
_TARGET = 1.25
_POOL = 1 << 16  # tokens
_LORAX, _TRANSFORMERS = "LoRAX", "transformers"
_CHAIN, _TREE, _WIDE, _POOLED = "chain", "tree", "wide", "pool"

#: The size of batch and context that drafting must be cheap for, and what is drafted there.
_BUSY, _LONG, _BUSY_NODES = 64, 4000, 5
_STEPS = 30
_MOST_OF_A_STEP = 0.05

#: Drafts after the first ``at`` tokens of a text.
Rule = Callable[[list[int], int], DraftTree]


@dataclass(frozen=True)
class Stream:
    """A prompt and the answer it got without drafts."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    most: int


def measure(settings: Settings) -> Report:
    rows: list[dict[str, Value]] = []
    checks: list[Check] = []
    with Engine(dtype="float32") as engine:
        cases = [(group, t) for t in _TEMPERATURES for group in _GROUPS]
        for group, temperature in settings.track(cases, len(cases), "accepted"):
            streams = list(_streams(engine, group, temperature, settings))
            found = {length: _accepted(streams, length) for length in _LENGTHS}
            rows += [_row(group, temperature, n, len(streams), found[n]) for n in _LENGTHS]
            for mine, same in ((_WIDE, "length"), (_TREE, "number of nodes")):
                for rival in (_LORAX, _TRANSFORMERS):
                    worst = min(found[n][mine].value / found[n][rival].value for n in _LENGTHS)
                    what = f"accepted by {rival}, {group}, T {temperature:g}, same {same}"
                    checks.append(Check(f"{what}, worst of {_LENGTHS}", worst, _TARGET, "x"))
        step = _forward_seconds(engine)
        cost = _cost(engine)
    checks.append(
        Check(
            f"drafting, of a forward of {_BUSY} sequences of {_LONG} tokens",
            cost / step,
            _MOST_OF_A_STEP,
            at_most=True,
        )
    )
    return Report(
        "prompt lookup: accepted drafted tokens per forward pass, no looping answers",
        rows,
        checks,
        [
            "Answers to every second prompt; the first chances were fitted to the others. Rules "
            "draft along answers that were made without drafts.",
            f"LoRAX's and transformers' rules, chain and tree draft as many nodes as the length "
            f"says; {_WIDE} is a tree as deep, as --speculative-tokens bounds it, of up to "
            f"{_BRANCHES} times the nodes, and by it the rules are judged.",
            f"Drafting for {_BUSY} sequences of {_LONG} tokens takes {1e3 * cost:.2f} ms, "
            f"{1e6 * cost / _BUSY:.1f} us each; the embedded model's forward alone for these "
            f"{1e3 * step:.1f} ms.",
        ],
        {"drafting_seconds": cost, "forward_seconds": step},
    )


def _streams(
    engine: Engine, group: str, temperature: float, settings: Settings
) -> Iterator[Stream]:
    most = settings.count(1000, 12)
    side = EngineSide(engine.core, temperature=temperature, seed=settings.seed)
    for kind in _GROUPS[group]:
        asked = _asked(kind, engine)[1::2][:most]
        requests = list(side.requests(asked))
        for first in range(0, len(requests), _AT_ONCE):
            answers = drive(engine.core, requests[first : first + _AT_ONCE])
            for prompt, answer in zip(asked[first:], answers, strict=False):
                if worth_counting(answer.tokens):
                    length = len(prompt.ids) + prompt.new_tokens
                    yield Stream(prompt.ids, tuple(answer.tokens), length)


def _asked(kind: str, engine: Engine) -> list[Prompt]:
    everything = embedded.workloads()
    if kind == SECOND_TURN:
        return second_turns(everything, engine.tokenizer)
    return prompts((kind,), len(everything[kind]), engine.tokenizer)


def _accepted(streams: Sequence[Stream], length: int) -> dict[str, Estimate]:
    """By rule, accepted drafted tokens per forward pass."""
    wide = length * _BRANCHES
    makers: dict[str, Callable[[Stream], Rule]] = {
        _LORAX: lambda stream: _lorax(length),
        _TRANSFORMERS: lambda stream: _transformers(length, stream.most),
        _CHAIN: _ours(length, length, PromptLookupDrafter(), best_path),
        _TREE: _ours(length, length, PromptLookupDrafter(), best),
        _WIDE: _ours(length, wide, PromptLookupDrafter(), best),
        _POOLED: _ours(length, wide, PromptLookupDrafter(pool_tokens=_POOL), best),
    }
    found = {}
    for name, make in makers.items():
        counts = [_walk(stream, make(stream)) for stream in streams]
        found[name] = ratio_of_sums([count[0] for count in counts], [c[1] for c in counts])
    return found


def _walk(stream: Stream, rule: Rule) -> tuple[int, int]:
    """(accepted, forward passes) after the prompt's own pass."""
    text = [*stream.prompt, *stream.answer]
    at, accepted, passes = len(stream.prompt) + 1, 0, 0
    while at < len(text):
        taken = _accept(rule(text, at), text[at:-1])
        accepted += taken
        passes += 1
        at += taken + 1
    return accepted, passes


def _accept(draft: DraftTree, truth: Sequence[int]) -> int:
    node: int | None = ROOT
    for depth, token in enumerate(truth):
        node = draft.child(cast(int, node), token)
        if node is None:
            return depth
    return len(truth)


def _lorax(nodes: int) -> Rule:
    """The last token's first occurrence, else the text's beginning; always as many tokens as
    asked for (``text_generation_server`` and LoRAX, prompt lookup)."""

    def draft(text: list[int], at: int) -> DraftTree:
        known = text[:at]
        start = known.index(known[-1]) + 1
        start = start if start < at else 1
        return chain(known[start : start + nodes], _LORAX)

    return draft


def _transformers(nodes: int, most: int) -> Rule:
    generator = PromptLookupCandidateGenerator(num_output_tokens=nodes, max_length=most)

    def draft(text: list[int], at: int) -> DraftTree:
        candidates, _ = generator.get_candidates(torch.tensor([text[:at]]))
        return chain(candidates[0, at:].tolist(), _TRANSFORMERS)

    return draft


def _ours(
    length: int,
    nodes: int,
    drafter: PromptLookupDrafter,
    choose: Callable[[Offer, int], DraftTree],
) -> Callable[[Stream], Rule]:
    """One drafter for all streams in turn, as a server has it; each ends where the next begins."""
    previous: list[tuple[Row, Stream]] = []

    def make(stream: Stream) -> Rule:
        while previous:
            ended, its = previous.pop()
            ended.tokens[:] = [*its.prompt, *its.answer]
            drafter.forget(ended)
        row = _sequence(stream.prompt)
        previous.append((row, stream))

        def draft(text: list[int], at: int) -> DraftTree:
            row.tokens += text[len(row.tokens) : at]
            depth = min(length, stream.most - at - 1)
            return choose(drafter.offer([_turn(row, nodes, depth)])[0], nodes)

        return draft

    return make


def best_path(offer: Offer, count: int) -> DraftTree:
    """The chain of ``count`` nodes that goes to the likeliest child each time."""
    if offer == NOTHING:
        return EMPTY
    likeliest: dict[int, int] = {}
    for node, parent in enumerate(offer.parents):
        rival = likeliest.get(parent)
        if rival is None or offer.probabilities[node] > offer.probabilities[rival]:
            likeliest[parent] = node
    tokens: list[int] = []
    last = likeliest.get(ROOT)
    while last is not None and len(tokens) < count:
        tokens.append(offer.tokens[last])
        last = likeliest.get(last)
    return chain(tokens, _CHAIN)


def _row(
    group: str, temperature: float, length: int, streams: int, found: dict[str, Estimate]
) -> dict[str, Value]:
    wide = found[_WIDE].value
    return {
        "workload": group,
        "T": temperature,
        "length": length,
        "answers": streams,
        **{name: round(estimate.value, 3) for name, estimate in found.items()},
        "by LoRAX": wide / found[_LORAX].value,
        "by transf.": wide / found[_TRANSFORMERS].value,
    }


def _cost(engine: Engine) -> float:
    """Median processor seconds to draft for 64 long sequences that go on as real texts do."""
    kinds = tuple(embedded.workloads())
    pieces = [
        token
        for items in (prompts(kinds, 192, engine.tokenizer),)
        for prompt in items
        for token in prompt.ids
    ]
    room = _LONG + _STEPS * (_BUSY_NODES + 1)
    starts = [len(pieces) * number // _BUSY for number in range(_BUSY)]
    texts = [[*pieces[start:], *pieces[:start]] for start in starts]
    texts = [(text * -(-room // len(text)))[:room] for text in texts]
    drafter = PromptLookupDrafter()
    rows = [_sequence(tuple(text[:_LONG])) for text in texts]
    seconds = []
    for _ in range(_STEPS):
        turns = [_turn(row, _BUSY_NODES, _BUSY_NODES) for row in rows]
        started = time.thread_time()
        offers = drafter.offer(turns)
        seconds.append(time.thread_time() - started)
        for row, text, offer in zip(rows, texts, offers, strict=True):
            at = len(row.tokens)
            row.tokens += text[at : at + 1 + _accept(best(offer, _BUSY_NODES), text[at:])]
    return median(seconds[1:])


def _forward_seconds(engine: Engine) -> float:
    """Processor seconds of a forward of as many and as long sequences, without drafts."""
    core = engine.core
    plan = rehearsal(core.adapters.lease(()), _BUSY, 0, _LONG)
    return forward_seconds(core._model, plan)


def _sequence(prompt: tuple[int, ...]) -> Row:
    """One that only drafters see."""
    return Row(
        TokenRequest(0, prompt, Parameters()),
        cast(Any, None),
        SamplingRule(),
        list(prompt),
        len(prompt) + 1,
    )


def _turn(row: Row, nodes: int, depth: int) -> Turn:
    return Turn(row, torch.empty(0), nodes, depth)
