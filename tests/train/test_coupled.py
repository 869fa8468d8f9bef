"""Training ranks guesses as serving does."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from lorax_spec import embedded
from lorax_spec.adapters.calibration import FILE, parse
from lorax_spec.engine.drafting.ranking import Ranking
from lorax_spec.engine.sampling import SamplingRule
from lorax_spec.speculation.coupling import head_constants
from lorax_spec.train.acceptance import WIDTH, Output
from lorax_spec.train.coupled import Coupled
from tests.engine.small_model import new_sequence, turn

HEADS, VOCABULARY = 4, 300
OUTPUT = Output(prompt=[7, 8, 9], tokens=[5, 3, 8, 1, 4, 2], seed=(3 << 32) + 1)


def calibration() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((embedded.path() / "adapters" / "medusa" / FILE).read_text())
    return found


@pytest.mark.parametrize("temperature", [0.0, 0.3, 0.8, 1.4])
def test_guesses_and_their_worth_are_those_that_are_served(temperature: float) -> None:
    content = calibration()
    coupled = Coupled(OUTPUT, temperature, head_constants(content))
    generator = torch.Generator().manual_seed(6)
    places = len(OUTPUT.tokens)
    logits = torch.randn(HEADS, places, VOCABULARY, generator=generator) * 3
    rule = SamplingRule(temperature, seed=OUTPUT.seed)
    known = [[*OUTPUT.prompt, *OUTPUT.tokens[: place + 1]] for place in range(places)]
    turns = [turn(new_sequence(tokens, rule)) for tokens in known]
    served = Ranking().guesses(logits, turns, 1, parse(content), WIDTH)
    for head in range(HEADS):
        ids, worth = coupled(head, logits[head], torch.arange(places) + 1 + head)
        for place in range(places):
            tokens, chances = zip(*served[place][head], strict=True)
            assert ids[place].tolist() == list(tokens)
            assert worth[place].tolist() == pytest.approx(chances, rel=1e-4)
            assert list(chances) == sorted(chances, reverse=True)
