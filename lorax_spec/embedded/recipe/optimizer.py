"""Muon for matrices, AdamW for embeddings and vectors, over float32 masters of bfloat16 weights.

Muon: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.  On a CPU that multiplies
bfloat16 natively, a forward and backward pass in pure bfloat16 takes a third of float32's time;
the masters keep the small updates that bfloat16 would round away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Schedule = Callable[[int], float]


class MasterOptimizer:
    """Steps float32 masters of ``module`` and copies them back to its bfloat16 parameters.

    ``matrices`` names the parameters Muon takes; every other one goes to AdamW.
    """

    def __init__(
        self,
        module: nn.Module,
        matrices: Callable[[str, torch.Tensor], bool],
        *,
        matrix_rate: float = 0.02,
        vector_rate: float = 3e-3,
    ) -> None:
        self._pairs = [
            (name, parameter, parameter.detach().float().requires_grad_())
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        ]
        muon = [m for name, p, m in self._pairs if matrices(name, p)]
        adam = [m for name, p, m in self._pairs if not matrices(name, p)]
        self._groups: list[tuple[torch.optim.Optimizer, float]] = []
        if muon:
            optimizer = torch.optim.Muon(
                muon, lr=matrix_rate, momentum=0.95, weight_decay=0.1, nesterov=True
            )
            self._groups.append((optimizer, matrix_rate))
        if adam:
            adamw = torch.optim.AdamW(adam, lr=vector_rate, betas=(0.9, 0.95), weight_decay=0.0)
            self._groups.append((adamw, vector_rate))

    @torch.no_grad()
    def step(self, scale: float) -> None:
        """One update at ``scale`` times the peak rates; clears the gradients."""
        for _, parameter, master in self._pairs:
            assert parameter.grad is not None
            master.grad = parameter.grad.float()
        for optimizer, rate in self._groups:
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
            optimizer.step()
        for _, parameter, master in self._pairs:
            parameter.copy_(master)
            parameter.grad = None

    def masters(self) -> dict[str, torch.Tensor]:
        """The float32 weights by parameter name."""
        return {name: master.detach() for name, _, master in self._pairs}

    def state_dict(self) -> dict[str, Any]:
        return {
            "masters": self.masters(),
            "optimizers": [optimizer.state_dict() for optimizer, _ in self._groups],
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, parameter, master in self._pairs:
            master.copy_(state["masters"][name])
            parameter.copy_(master)
        for (optimizer, _), saved in zip(self._groups, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
