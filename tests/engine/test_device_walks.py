"""Walks on the device choose what walks on the host choose."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorax_spec.engine.device_walks import DeviceWalks
from lorax_spec.engine.noise import Noise
from lorax_spec.engine.sampling import History, SamplingRule
from lorax_spec.engine.scheduler import Scheduled
from lorax_spec.engine.sequence import Sequence
from lorax_spec.engine.verification import Sampled, walk_drafts
from lorax_spec.kernels.triton.variant import INTERPRETED
from lorax_spec.speculation.tree import ROOT, DraftTree
from lorax_spec.types import Parameters
from tests.engine.sequences import sequence

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
VOCABULARY, EOS = 48, {7, 11}


@st.composite
def rules(draw: st.DrawFn) -> SamplingRule:
    """Greedy or not, with any of the penalties; filters that no rounding can move."""
    options: dict[str, Any] = {
        "temperature": draw(st.sampled_from([0.0, 0.7, 1.3])),
        "top_k": draw(st.sampled_from([0, 3, 20])),
        "min_p": draw(st.sampled_from([0.0, 0.01])),
        "repetition_penalty": draw(st.sampled_from([1.0, 1.4])),
        "frequency_penalty": draw(st.sampled_from([0.0, 0.5])),
        "presence_penalty": draw(st.sampled_from([0.0, -0.3])),
        "seed": draw(st.sampled_from([0, 5, 2**63 + 9])),
        "alternatives": draw(st.sampled_from([0, 0, 2])),
    }
    if draw(st.booleans()):
        options["logit_bias"] = {9: 1.5, 2: -2.0}
    return SamplingRule(**options)


@st.composite
def trees(draw: st.DrawFn) -> DraftTree:
    """Few tokens, so that guesses come true; siblings differ."""
    tokens: list[int] = []
    parents: list[int] = []
    for node in range(draw(st.integers(0, 8))):
        parent = draw(st.integers(ROOT, node - 1))
        taken = {t for t, p in zip(tokens, parents, strict=True) if p == parent}
        tokens.append(draw(st.sampled_from([t for t in range(12) if t not in taken])))
        parents.append(parent)
    return DraftTree(tuple(tokens), tuple(parents), ("any",) * len(tokens))


def new(prompt: list[int], rule: SamplingRule, room: int, heeds_end: bool) -> Sequence:
    one = sequence(prompt, room)
    parameters = Parameters(ignore_eos_token=not heeds_end)
    one.request = dataclasses.replace(one.request, parameters=parameters)
    one.rule, one.noise = rule, Noise(rule.seed)
    one.blocks = [1, 2]
    if rule.penalizes:
        one.history = History(prompt[:2], prompt[2:], VOCABULARY, DEVICE)
    return one


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_the_same_tokens_ends_and_histories(data: st.DataObject) -> None:
    cases = []
    for _ in range(data.draw(st.integers(1, 4), "sequences")):
        prompt = data.draw(st.lists(st.integers(0, 20), min_size=2, max_size=6))
        room, heeds = data.draw(st.integers(1, 5)), data.draw(st.booleans())
        cases.append((prompt, data.draw(rules()), room, heeds, data.draw(trees())))

    def rows() -> list[Sampled]:
        found, first = [], 3
        for prompt, rule, room, heeds, tree in cases:
            one = new(prompt, rule, room, heeds)
            found.append(Sampled(Scheduled(one, len(prompt) - 1, 1, tree), first))
            first += 1 + len(tree)
        return found

    count = 3 + sum(1 + len(tree) for *_, tree in cases)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6), "logits"))
    logits = torch.randn(count, VOCABULARY, generator=generator)
    # What trees guess is likely, or walks would be short.
    logits[:, :12] += 2.0
    logits = logits.to(DEVICE)
    host, device = rows(), rows()
    expected = walk_drafts(host, logits, EOS)
    actual = DeviceWalks(VOCABULARY, DEVICE)(device, logits, EOS)
    for one, other, mine, theirs in zip(expected, actual, host, device, strict=True):
        assert other.nodes == one.nodes
        assert [c.token for c in other.choices] == [c.token for c in one.choices]
        assert [c.reason for c in other.choices] == [c.reason for c in one.choices]
        for a, b in zip(one.choices, other.choices, strict=True):
            assert a.chosen.logprob == pytest.approx(b.chosen.logprob, abs=1e-5)
            assert len(a.chosen.alternatives) == len(b.chosen.alternatives)
        if mine.sequence.history is not None and theirs.sequence.history is not None:
            assert torch.equal(mine.sequence.history.counts, theirs.sequence.history.counts)
            assert torch.equal(mine.sequence.history.seen, theirs.sequence.history.seen)
