"""What a head's guesses are worth, with the noise of the guessed position taken into account.

A sampled token is ``argmax(logits / T + g)``, and its noise ``g`` is known before it is guessed
(Gumbel-max coupling: Daliri, Musco, Suresh 2024).  Were a head's ``log q`` the model's own, the
guess with the greatest ``log q / T + g`` would be the token; how far to trust it is calibrated.
Some of the time the model is surer than its head and the noise decides nothing (copying), else
head and noise count about equally (free text), so what a guess v is worth is a mixture::

    P(v) = share * S_sure(v) + (1 - share) * S_free(v)
    S(v) = exp(a log q(v) / T + b g(v)) / (exp(c) + sum over u of exp(a log q(u) / T + b g(u)))

over the candidates, with c for none of them.  Both parts are fitted at T = 0.8; below it their
exponents move, linearly in T, to those fitted for greedy outputs, where P is a softmax of
``a log q``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

#: Candidates of a head that are looked at: those with the greatest ``log q / T + g`` of the whole
#: vocabulary, for greedy requests those with the greatest ``log q``.
LOOKED_AT = 64
#: The temperature of the outputs that the sampling constants are fitted to.
FITTED_TEMPERATURE = 0.8
#: The least that a candidate is worth.
LEAST = 1e-12

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Part:
    """Exponents of ``log q / T`` and of the noise, and the score of "none of these"."""

    sharpness: float
    noise: float
    none: float


@dataclass(frozen=True)
class HeadConstants:
    """One head's calibration; ``share`` in [0, 1] is that of ``sure``.  ``greedy`` has T = 1.

    For many heads at once the numbers may be arrays that broadcast against their candidates.
    """

    greedy: Part
    free: Part
    sure: Part
    share: float


#: For heads that come without a calibration: about what well-trained heads have.
UNCALIBRATED = HeadConstants(
    greedy=Part(1.0, 0.0, -3.0),
    free=Part(1.0, 0.8, -5.0),
    sure=Part(1.5, 0.2, -3.0),
    share=0.45,
)


def head_constants(calibration: Mapping[str, Any]) -> list[HeadConstants]:
    """Constants of every head from the content of a ``calibration.json``.

    ``sharpness``, ``noise`` and ``none`` are those of the free part; ``sure`` holds the same for
    the sure part and its ``share``, ``greedy`` holds ``sharpness`` and ``none``.
    """
    sure, greedy = calibration["sure"], calibration["greedy"]
    return [
        HeadConstants(
            greedy=Part(greedy["sharpness"][k], 0.0, greedy["none"][k]),
            free=Part(*(calibration[name][k] for name in ("sharpness", "noise", "none"))),
            sure=Part(*(sure[name][k] for name in ("sharpness", "noise", "none"))),
            share=sure["share"][k],
        )
        for k in range(len(calibration["sharpness"]))
    ]


def worths(
    log_q: Floats,
    noise: Floats | None,
    temperature: float | Floats,
    constants: HeadConstants,
) -> Floats:
    """How likely each candidate is the model's token, in (0, 1], together at most 1.

    Args:
        log_q: [..., candidates], the head's log-probabilities at temperature 1.
        noise: the same shape, the guessed position's noise of each candidate; None for greedy
            requests, whose temperature does not matter.
        temperature: above 0; a number, or an array that broadcasts against ``log_q``.
    """
    greedy = constants.greedy
    if noise is None:
        return _softmax(greedy.sharpness * log_q, greedy.none)
    sure = _part(constants.sure, log_q, noise, temperature, constants)
    free = _part(constants.free, log_q, noise, temperature, constants)
    mixed: Floats = constants.share * sure + (1.0 - constants.share) * free
    return mixed


def _part(
    of: Part,
    log_q: Floats,
    noise: Floats,
    temperature: float | Floats,
    constants: HeadConstants,
) -> Floats:
    """One part's worths at a temperature."""
    warm = np.minimum(np.asarray(temperature) / FITTED_TEMPERATURE, 1.0)
    hot = np.maximum(np.asarray(temperature), FITTED_TEMPERATURE)
    sharpness = (1.0 - warm) * constants.greedy.sharpness + warm * of.sharpness / hot
    none = (1.0 - warm) * constants.greedy.none + warm * of.none
    return _softmax(sharpness * log_q + warm * of.noise * noise, none)


def _softmax(scores: Floats, none: float | Floats) -> Floats:
    """Softmax over the last axis and one more option of score ``none``, which is left out."""
    top = np.maximum(scores.max(-1, keepdims=True), none)
    powers = np.exp(scores - top)
    shares: Floats = powers / (powers.sum(-1, keepdims=True) + np.exp(none - top))
    return np.maximum(shares, LEAST)
