"""Hydra heads of a test's own, and what they should guess by transformers' hidden states and
embeddings, path by path."""

from __future__ import annotations

import functools
from collections.abc import Sequence as Rows
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from lorax_spec.adapters.folder import read_folder
from lorax_spec.adapters.shape import shape_of
from lorax_spec.adapters.weights import HydraHeads
from lorax_spec.engine.drafting.drafter import Turn
from lorax_spec.engine.drafting.hydra import CANDIDATES
from lorax_spec.speculation.offer import Offer
from lorax_spec.speculation.tree import ROOT, DraftTree
from tests.adapters.writers import hydra_config, hydra_tensors, write_hydra
from tests.engine import sequences
from tests.engine.reference import reference

HEADS, INNER = 3, 24


def tensors(seed: int) -> dict[str, torch.Tensor]:
    """Random heads that hear hidden states and embeddings alike, though these are far smaller."""
    hidden = reference().config.hidden_size
    drawn = hydra_tensors(HEADS, INNER, hidden, seed)
    for head in range(HEADS):
        drawn[f"hydra.{head}.in.weight"][:, :hidden] *= 0.05
        drawn[f"hydra.{head}.out.weight"] *= 0.3
        drawn[f"hydra.{head}.out.bias"] *= 0.1
    return drawn


def write(folder: Path, seed: int, choices: object = None) -> Path:
    config = hydra_config(HEADS, INNER, base_model_name_or_path="", medusa_choices=choices)
    return write_hydra(folder, config, tensors(seed))


@functools.cache
def read(folder: Path) -> HydraHeads:
    base = reference()
    heads = read_folder(folder, shape_of(base, ""), torch.float32).hydra
    assert heads is not None
    return heads


class Transformers:
    """The base as transformers has it; the drafter's batches are as plain as its own."""

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = reference().get_input_embeddings()(ids)
        return embedded

    def head_logits(self, states: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = reference().lm_head(states)
        return logits.float()


@functools.cache
@torch.inference_mode()
def hidden_before(tokens: tuple[int, ...]) -> torch.Tensor:
    """The lm head's input of the row that the last of ``tokens`` was chosen from."""
    output = reference()(torch.tensor([tokens[:-1]]), output_hidden_states=True)
    hidden: torch.Tensor = output.hidden_states[-1][0, -1]
    return hidden


@functools.cache
@torch.inference_mode()
def expected(seed: int, tokens: tuple[int, ...], drafted: tuple[int, ...]) -> torch.Tensor:
    """Probability of every token after ``tokens`` and ``drafted``, in float64."""
    base, weights, head = reference(), tensors(seed), len(drafted)
    hidden = hidden_before(tokens).double()
    table = base.model.embed_tokens.weight.double()
    x = torch.cat([hidden, *(table[token] for token in (tokens[-1], *drafted))])
    part = {
        name: weights[f"hydra.{head}.{name}"].double()
        for name in ("in.weight", "in.bias", "out.weight", "out.bias")
    }
    inner = F.silu(part["in.weight"] @ x + part["in.bias"])
    state = hidden + part["out.weight"] @ inner + part["out.bias"]
    likely: torch.Tensor = (base.lm_head.weight.double() @ state).softmax(-1)
    return likely


def by_softmax(
    logits: torch.Tensor, turns: Rows[Turn], depth: int, heads: HydraHeads, most: int
) -> list[list[tuple[int, float]]]:
    """As the heads say, without calibration."""
    values, tokens = logits.softmax(-1).topk(most)
    pairs = zip(tokens.tolist(), values.tolist(), strict=True)
    return [list(zip(ids, row, strict=True)) for ids, row in pairs]


def turn(
    tokens: tuple[int, ...],
    heads: HydraHeads | None,
    nodes: int = 16,
    depth: int = 9,
    least: float = 0.0,
) -> Turn:
    sequence = sequences.sequence(list(tokens))
    sequence.hydra = heads
    return Turn(sequence, hidden_before(tokens), nodes, depth, least)


def drafted(offer: Offer | DraftTree, node: int) -> tuple[int, ...]:
    """The tokens from the root down to a node, itself included."""
    if node == ROOT:
        return ()
    return (*drafted(offer, offer.parents[node]), offer.tokens[node])


def assert_probabilities(offer: Offer, seed: int, tokens: tuple[int, ...]) -> None:
    """Every node has that of its own path."""
    for node, parent in enumerate(offer.parents):
        likely = expected(seed, tokens, drafted(offer, parent))[offer.tokens[node]].item()
        assert offer.probabilities[node] == pytest.approx(likely, rel=1e-3)


@dataclass(frozen=True)
class Grown:
    reach: float
    tokens: tuple[int, ...]


def searched(seed: int, tokens: tuple[int, ...], nodes: int, depth: int, width: int) -> list[Grown]:
    """The likeliest nodes of a beam search, one path at a time and nothing left out early."""
    beam, found = [Grown(1.0, ())], []
    for _ in range(min(depth, HEADS)):
        level = []
        for path in beam:
            values, ids = expected(seed, tokens, path.tokens).topk(CANDIDATES)
            for value, token in zip(values.tolist(), ids.tolist(), strict=True):
                level.append(Grown(path.reach * value, (*path.tokens, token)))
        found += level
        beam = sorted(level, key=lambda one: -one.reach)[:width]
    return sorted(found, key=lambda one: -one.reach)[:nodes]
