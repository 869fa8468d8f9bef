"""The exact distribution of a short sampled continuation, and how far samples are from it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from scipy import stats
from transformers import AutoModelForCausalLM

from lorax_spec import embedded
from lorax_spec.text.tokenizer import TextTokenizer

#: Sampling cut to so few tokens that every continuation has a probability worth counting.
TOP_K, TEMPERATURE, LENGTH = 3, 1.3, 3

#: The test rings falsely once in so many runs.
FALSE_ALARM = 1e-4

Cells = dict[tuple[int, ...], float]


@torch.inference_mode()
def exact_cells(prompt: str) -> Cells:
    """Probability of every continuation of LENGTH tokens, by transformers in float64."""
    base = embedded.path() / "base"
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).eval()
    ids = list(TextTokenizer.load(base).encode(prompt))
    cells: Cells = {(): 1.0}
    for _ in range(LENGTH):
        longer: Cells = {}
        for tokens, probability in cells.items():
            logits = model(torch.tensor([[*ids, *tokens]])).logits[0, -1] / TEMPERATURE
            best = logits.topk(TOP_K)
            for token, p in zip(
                best.indices.tolist(), best.values.softmax(-1).tolist(), strict=True
            ):
                longer[(*tokens, token)] = probability * p
        cells = longer
    return cells


def p_value(samples: Iterable[tuple[int, ...]], cells: Cells) -> float:
    """Of a G-test; 0 where a sample is impossible.  Cells too rare to test stand together."""
    counts = Counter(samples)
    if set(counts) - set(cells):
        return 0.0
    total = counts.total()
    ordered = sorted(cells, key=lambda cell: cells[cell])
    rare = list(itertools.takewhile(lambda cell: cells[cell] * total < 5, ordered))
    common = ordered[len(rare) :]
    observed = [counts[cell] for cell in common]
    expected = [cells[cell] * total for cell in common]
    if rare:
        observed.append(sum(counts[cell] for cell in rare))
        expected.append(sum(cells[cell] for cell in rare) * total)
    scaled = np.array(expected) * (total / sum(expected))
    result = stats.power_divergence(observed, scaled, lambda_="log-likelihood")
    return float(result.pvalue)
