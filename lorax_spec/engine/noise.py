"""The noise of a request's positions, made once: drafting looks at it first, then choosing does."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch

from lorax_spec.kernels.noise import gumbel


class Noise:
    """One request's noise: float32 [vocabulary] for each position that was asked for and has not
    been passed yet."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.made: dict[int, torch.Tensor] = {}

    def forget_before(self, position: int) -> None:
        """Positions that are chosen will not be asked for again."""
        for passed in [known for known in self.made if known < position]:
            del self.made[passed]


def noise_of(
    wanted: Rows[tuple[Noise, int]], vocabulary: int, device: torch.device, ahead: int = 0
) -> torch.Tensor:
    """The noise of each position [len(wanted), vocabulary].

    Where one must be made, so are the ``ahead`` positions after it, which will be asked for next:
    one large call costs less than several.
    """
    lacking = list(
        dict.fromkeys(
            (noise, later)
            for noise, position in wanted
            if position not in noise.made
            for later in range(position, position + ahead + 1)
            if later not in noise.made
        )
    )
    if lacking:
        seeds, positions = [noise.seed for noise, _ in lacking], [at for _, at in lacking]
        rows = gumbel(seeds, positions, vocabulary, device)
        for (noise, position), row in zip(lacking, rows, strict=True):
            noise.made[position] = row
    return torch.stack([noise.made[position] for noise, position in wanted])
