"""Ranking guesses as the engine does: calibrated, and with the position's own noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from lorax_spec.kernels.noise import gumbel
from lorax_spec.speculation.coupling import LOOKED_AT, HeadConstants, worths
from lorax_spec.train.acceptance import WIDTH, Output


@dataclass
class Coupled:
    """A Ranking along one output, which was generated at ``temperature``."""

    output: Output
    temperature: float
    constants: Sequence[HeadConstants]
    _noise: torch.Tensor | None = field(default=None, init=False)

    def __call__(
        self, head: int, logits: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_q = logits.float().log_softmax(-1)
        noise = self._noise_at(places, log_q) if self.temperature else torch.zeros_like(log_q)
        scores = log_q / (self.temperature or 1.0) + noise
        looked_at = scores.topk(min(LOOKED_AT, log_q.shape[-1])).indices
        worth = torch.from_numpy(
            worths(
                log_q.gather(1, looked_at).double().cpu().numpy(),
                noise.gather(1, looked_at).double().cpu().numpy() if self.temperature else None,
                self.temperature,
                self.constants[head],
            )
        ).to(logits.device, torch.float32)
        best = worth.topk(min(WIDTH, worth.shape[1]))
        return looked_at.gather(1, best.indices), best.values

    def _noise_at(self, places: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        if self._noise is None:
            count = len(self.output.tokens) + len(self.constants)
            first = len(self.output.prompt)
            self._noise = gumbel(
                [self.output.seed] * count,
                list(range(first, first + count)),
                log_q.shape[1],
                log_q.device,
            )
        return self._noise[places]
