"""What decides about a token, as a second model sees it: its scores with the first one's noise."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch

from lorax_spec.engine.drafting.shadows import Shadow
from lorax_spec.engine.sampling import Place, process
from lorax_spec.kernels.noise import gumbel

#: Positions whose noise is made at a time; what this turn does not use, the next one will.
_AHEAD = 4


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
        heated = _heated_noise([shadows[index] for index in noisy], logits)
        logits.index_add_(0, torch.tensor(noisy, device=logits.device), heated)
    return logits


def _heated_noise(shadows: Rows[Shadow], like: torch.Tensor) -> torch.Tensor:
    """Temperature times the noise of the position after each row [shadows, vocabulary]."""
    lacking = [shadow for shadow in shadows if len(shadow.row.tokens) not in shadow.noise]
    if lacking:
        places = [(shadow, len(shadow.row.tokens) + i) for shadow in lacking for i in range(_AHEAD)]
        made = gumbel(
            [shadow.row.rule.seed for shadow, _ in places],
            [position for _, position in places],
            like.shape[-1],
            like.device,
        )
        for (shadow, position), noise in zip(places, made, strict=True):
            shadow.noise[position] = noise * shadow.row.rule.temperature
    return torch.stack([shadow.noise[len(shadow.row.tokens)] for shadow in shadows])
