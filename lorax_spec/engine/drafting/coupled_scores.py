"""What decides about a token, as a second model sees it: its scores with the first one's noise."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch

from lorax_spec.engine.drafting.shadows import Shadow
from lorax_spec.engine.noise import noise_of
from lorax_spec.engine.sampling import Place, process


def coupled_scores(logits: torch.Tensor, shadows: Rows[Shadow]) -> torch.Tensor:
    """The score of every token after each shadow's row, up to the second model's own error.

    Logits, under the request's bias and filters, plus temperature times the position's noise where
    it samples.  float32 [shadows, vocabulary] from ``logits`` of that shape, which is changed.
    """
    for index, shadow in enumerate(shadows):
        row, rule = shadow.row, shadow.row.rule
        if rule.logit_bias or rule.top_k or min(rule.top_p, rule.typical_p) < 1.0 or rule.min_p:
            processed = process(logits[index], Place(index, len(row.tokens), rule, None))
            logits[index] = processed * (rule.temperature or 1.0)
    noisy = [index for index, shadow in enumerate(shadows) if not shadow.row.rule.greedy]
    if noisy:
        rows = [shadows[index].row for index in noisy]
        wanted = [(row.noise, len(row.tokens)) for row in rows]
        noise = noise_of(wanted, logits.shape[-1], logits.device)
        heat = torch.tensor([row.rule.temperature for row in rows], device=logits.device)
        logits.index_add_(0, torch.tensor(noisy, device=logits.device), noise * heat[:, None])
    return logits
