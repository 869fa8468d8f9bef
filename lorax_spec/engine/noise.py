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


#: Numbers that take about as long as one: so many are made together.
_AT_ONCE = 1 << 15


def noise_of(
    wanted: Rows[tuple[Noise, int]], vocabulary: int, device: torch.device
) -> torch.Tensor:
    """The noise of each position [len(wanted), vocabulary].

    Where few must be made, so are positions after them, which will be asked for next: one large
    call costs less than several.
    """
    lacking = list(dict.fromkeys(one for one in wanted if one[1] not in one[0].made))
    if lacking:
        further = _AT_ONCE // (len(lacking) * vocabulary)
        if further > 1:
            lacking = list(
                dict.fromkeys(
                    (noise, later)
                    for noise, position in lacking
                    for later in range(position, position + further)
                    if later not in noise.made
                )
            )
        seeds, positions = [noise.seed for noise, _ in lacking], [at for _, at in lacking]
        rows = gumbel(seeds, positions, vocabulary, device)
        for (noise, position), row in zip(lacking, rows, strict=True):
            noise.made[position] = row
    return torch.stack([noise.made[position] for noise, position in wanted])
