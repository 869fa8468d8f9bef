"""The shipped draft model, in drafters and as transformers runs it."""

from __future__ import annotations

import functools
from collections.abc import Sequence as Rows
from typing import cast

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorax_spec import embedded
from lorax_spec.adapters.lease import Lease
from lorax_spec.engine.drafting.draft_model import DraftModelDrafter, Price
from lorax_spec.engine.drafting.drafter import Turn
from lorax_spec.engine.drafting.sharpness import Sharpness
from lorax_spec.engine.model import LanguageModel
from lorax_spec.engine.plain_ops import plain_ops
from lorax_spec.engine.request import TokenRequest
from lorax_spec.engine.sampling import SamplingRule
from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.offer import Offer
from lorax_spec.speculation.tree import ROOT
from lorax_spec.types import Parameters, Speculation

Prompts = dict[str, list[tuple[int, ...]]]
BLOCKS = 400
#: Candidates closer than this may change places by rounding.
NEAR_TIE = 1e-4


@functools.cache
def small() -> PreTrainedModel:
    """The shipped draft model as transformers runs it."""
    return AutoModelForCausalLM.from_pretrained(embedded.draft_path(), dtype=torch.float32)


@functools.cache
def served() -> LanguageModel:
    """The same as the engine runs it; every drafter that uses it gets its own cache."""
    model = AutoModelForCausalLM.from_pretrained(embedded.draft_path(), dtype=torch.float32)
    return LanguageModel(model, plain_ops(exact=False))


def new_drafter(
    blocks: int = BLOCKS,
    price: Price = lambda rows: 0.0,
    factor: float = 1.0,
    catch_up: int = 512,
) -> DraftModelDrafter:
    """One whose sharpness stays what it is, so that what it offers depends on nothing past."""
    served().allocate_cache(blocks)
    sharpness = Sharpness(factor, rate=0.0)
    return DraftModelDrafter(served(), blocks, price, sharpness, catch_up=catch_up)


def new_sequence(
    tokens: Rows[int], rule: SamplingRule | None = None, num_tokens: int | None = None
) -> Sequence:
    request = TokenRequest(0, tuple(tokens), Parameters(), Speculation(num_tokens=num_tokens))
    rule = rule or SamplingRule()
    return Sequence(request, cast(Lease, None), rule, list(tokens), limit=len(tokens) + 999)


def turn(sequence: Sequence, nodes: int = 64, depth: int = 6) -> Turn:
    return Turn(sequence, torch.empty(0), nodes, depth)


def offers(
    drafter: DraftModelDrafter, sequences: Rows[Sequence], depth: int = 6, nodes: int = 64
) -> list[Offer]:
    made = drafter.offer([turn(sequence, nodes, depth) for sequence in sequences])
    drafter.shadows.check_integrity()
    return made


def chain_of(offer: Offer) -> list[int]:
    """The tokens that were gone on with: the first child at every depth."""
    first: dict[int, int] = {}
    for node, parent in enumerate(offer.parents):
        first.setdefault(parent, node)
    chain, node = [], ROOT
    while node in first:
        node = first[node]
        chain.append(offer.tokens[node])
    return chain


@functools.cache
@torch.inference_mode()
def logits_after(tokens: tuple[int, ...]) -> torch.Tensor:
    """float32 [vocabulary], of a pass over all of ``tokens``."""
    row: torch.Tensor = small()(torch.tensor([tokens])).logits[0, -1].float()
    return row


@functools.cache
def written(tokens: tuple[int, ...], count: int) -> list[int]:
    """What transformers' own greedy generation writes after ``tokens``."""
    ids = small().generate(torch.tensor([tokens]), max_new_tokens=count, do_sample=False)
    return cast("list[int]", ids[0, len(tokens) :].tolist())


def assert_greedy(offer: Offer, tokens: Rows[int], depth: int) -> None:
    """The chain is what transformers would write; the rest of it where that ends early, or where
    two tokens are nearly as good, is not looked at."""
    chain = chain_of(offer)
    assert len(chain) == depth
    prefix = tuple(tokens)
    for guess, token in zip(chain, written(prefix, depth), strict=False):
        best = logits_after(prefix).topk(2).values
        if best[0] - best[1] < NEAR_TIE:
            return
        assert guess == token
        prefix += (token,)


def assert_alike(offer: Offer, other: Offer) -> None:
    """The same but for rounding."""
    assert offer.probabilities == pytest.approx(other.probabilities, rel=1e-3)
    for node, p in enumerate(other.probabilities):
        siblings = [q for i, q in enumerate(other.probabilities) if i != node]
        if offer.tokens[node] != other.tokens[node]:
            assert any(q == pytest.approx(p, rel=1e-3) for q in siblings)
            return


def fresh_offer(sequence: Sequence, depth: int) -> Offer:
    """What a drafter that never saw the sequence offers, from a cache of its own."""
    caches = served().caches
    (offer,) = offers(new_drafter(), [sequence], depth)
    served().caches = caches
    return offer
