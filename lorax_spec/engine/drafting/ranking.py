"""From heads' logits to ranked guesses: calibrated, and for sampled requests with the noise of the
position they are for."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lorax_spec.adapters.calibration import HeadCalibration
from lorax_spec.engine.drafting.drafter import Turn
from lorax_spec.engine.noise import noise_of
from lorax_spec.speculation.coupling import (
    LEAST,
    LOOKED_AT,
    UNCALIBRATED,
    HeadConstants,
    Part,
    head_constants,
    worths,
)
from lorax_spec.speculation.medusa import HeadGuesses

#: Guesses of a head that may enter a tree.
CANDIDATES = 10
_COLDEST = 1e-3

Floats = npt.NDArray[np.floating[Any]]


class Ranking:
    """Ranks what heads say.

    ``coupled``: candidates of a sampled request are ranked with the noise that will choose its
    token (DESIGN section 6); without it, as if it were greedy, for comparison.
    """

    def __init__(self, *, coupled: bool = True) -> None:
        self._coupled = coupled

    def guesses(
        self,
        logits: torch.Tensor,
        turns: Rows[Turn],
        first_depth: int,
        calibration: HeadCalibration | None,
        most: int = CANDIDATES,
    ) -> list[list[HeadGuesses]]:
        """Each head's best guesses for each row, best first.

        Args:
            logits: float32 [heads, rows, vocabulary].
            turns: of each row.
            first_depth: how many tokens ahead the first of the heads looks, 1 at least; every
                further one looks one token further.

        Returns:
            [rows][heads][at most ``most``].
        """
        heads, rows, vocabulary = logits.shape
        constants = _constants(calibration, heads, first_depth)
        count = min(LOOKED_AT, vocabulary)
        log_q = logits.log_softmax(-1)
        rules = [turn.sequence.rule for turn in turns]
        noisy = [row for row, rule in enumerate(rules) if self._coupled and not rule.greedy]
        if not noisy:
            worth, ids = _quiet(log_q, constants, count)
        elif len(noisy) == rows:
            worth, ids = _coupled(log_q, turns, first_depth, constants, count)
        else:
            worth = np.empty((heads, rows, count))
            ids = np.empty((heads, rows, count), np.int64)
            quiet = sorted({*range(rows)}.difference(noisy))
            worth[:, quiet], ids[:, quiet] = _quiet(log_q[:, quiet], constants, count)
            chosen = [turns[row] for row in noisy]
            found = _coupled(log_q[:, noisy], chosen, first_depth, constants, count)
            worth[:, noisy], ids[:, noisy] = found
        # Weights that overflow in half precision give no number; others are in the same step.
        worth = np.minimum(np.fmax(worth, LEAST), 1.0)
        if noisy:  # without noise the likeliest come first already
            order = np.argsort(-worth, axis=-1, kind="stable")[..., :most]
            worth = np.take_along_axis(worth, order, -1)
            ids = np.take_along_axis(ids, order, -1)
        best_ids = ids[..., :most].transpose(1, 0, 2).tolist()
        best = worth[..., :most].transpose(1, 0, 2).tolist()
        return [
            [list(zip(i, w, strict=True)) for i, w in zip(row_ids, row_worth, strict=True)]
            for row_ids, row_worth in zip(best_ids, best, strict=True)
        ]


def _quiet(
    log_q: torch.Tensor, constants: HeadConstants, count: int
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """(worths, tokens) [heads, rows, count] of the likeliest candidates, best first."""
    values, tokens = log_q.topk(count)
    return worths(values.cpu().numpy(), None, 1.0, constants), tokens.cpu().numpy()


def _coupled(
    log_q: torch.Tensor, turns: Rows[Turn], first_depth: int, constants: HeadConstants, count: int
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """(worths, tokens) [heads, rows, count] of the candidates that are likeliest with the noise."""
    heads, _, vocabulary = log_q.shape
    wanted = [
        (turn.sequence.noise, len(turn.sequence.tokens) + first_depth - 1 + head)
        for head in range(heads)
        for turn in turns
    ]
    noise = noise_of(wanted, vocabulary, log_q.device).view(log_q.shape)
    temperature = torch.tensor(
        [max(turn.sequence.rule.temperature, _COLDEST) for turn in turns], device=log_q.device
    )[:, None]
    top = (log_q / temperature + noise).topk(count).indices
    values, heard = (one.gather(-1, top).cpu().numpy() for one in (log_q, noise))
    worth = worths(values, heard, temperature.cpu().numpy(), constants)
    return worth, top.cpu().numpy()


@lru_cache(maxsize=4096)
def _constants(calibration: HeadCalibration | None, heads: int, first_depth: int) -> HeadConstants:
    """Of consecutive heads, each number an array [heads, 1, 1]."""
    if calibration is None or calibration.none is None:
        each = [UNCALIBRATED] * heads
    else:
        each = head_constants(asdict(calibration))[first_depth - 1 :][:heads]

    def column(numbers: list[float]) -> Any:
        return np.array(numbers)[:, None, None]

    def part(name: str) -> Part:
        parts: list[Part] = [getattr(one, name) for one in each]
        return Part(
            column([one.sharpness for one in parts]),
            column([one.noise for one in parts]),
            column([one.none for one in parts]),
        )

    share = column([one.share for one in each])
    return HeadConstants(part("greedy"), part("free"), part("sure"), share)
