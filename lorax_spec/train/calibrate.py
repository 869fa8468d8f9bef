"""Measure what a head's guesses are worth on the model's own outputs: ``calibration.json``.

Nothing is learned here but a handful of constants for each head (speculation/coupling.py has the
formula), by maximum likelihood; and how often the guess of each rank came true.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from lorax_spec.kernels.noise import gumbel
from lorax_spec.speculation.coupling import FITTED_TEMPERATURE, LOOKED_AT
from lorax_spec.train.acceptance import Output, generate, worthwhile
from lorax_spec.train.loop import Guesser, embeddings, following, last_hidden

FILE = "calibration.json"
RANKS = 10
NEW_TOKENS = 96
#: What a fit starts from and, with the weight of so many tokens, is drawn to:
#: log sharpness, log noise and "none" of the sure and the free part, and the logit of the share.
_START = (0.4, -1.6, -3.0, 0.0, -0.2, -5.0, -0.2)
_GREEDY_START = (0.0, -3.0)
_PRIOR_TOKENS = 20.0

#: Log-losses by name.
Losses = dict[str, float]


@dataclass(frozen=True)
class Judged:
    """One head's guesses where the token that came is known.

    ``log_q``, ``noise`` float64 [n, candidates]; ``right`` [n]: the index of the token that came,
    or the number of candidates where it is none of them.
    """

    log_q: torch.Tensor
    noise: torch.Tensor
    right: torch.Tensor


def own_outputs(
    model: Any, prompts: Sequence[list[int]], seed: int, new_tokens: int = NEW_TOKENS
) -> dict[float, list[Output]]:
    """What the model makes of ``prompts``, greedy and at the temperature that is fitted."""
    return {
        temperature: generate(
            model, prompts, temperature=temperature, new_tokens=new_tokens, seed=seed
        )
        for temperature in (0.0, FITTED_TEMPERATURE)
    }


def calibration(
    model: Any, heads: Guesser, outputs: Mapping[float, Sequence[Output]]
) -> tuple[dict[str, Any], list[Losses]]:
    """From the model's own outputs by temperature: (the content of ``calibration.json``, for each
    head the log-losses in nats of its sampled guesses: ``raw`` by log q alone, ``plain`` the best
    softmax of it, ``coupled`` as fitted).

    Outputs that loop or are short are left out; without any the fit is its starting point.
    """
    hot = _judged(model, heads, outputs[FITTED_TEMPERATURE], FITTED_TEMPERATURE)
    cold = _judged(model, heads, outputs[0.0], 0.0)
    accepted: dict[str, list[list[float]]] = {"greedy": [], "sampled": []}
    fits: list[torch.Tensor] = []
    greedy_fits: list[torch.Tensor] = []
    logs: list[Losses] = []
    for sampled, greedy in zip(hot, cold, strict=True):
        fit = _fitted(mixed, sampled, _START)
        greedy_fit = _fitted(plain, greedy, _GREEDY_START)
        still = _fitted(plain, sampled, _GREEDY_START)
        accepted["sampled"].append(_accepted(mixed, sampled, fit))
        accepted["greedy"].append(_accepted(plain, greedy, greedy_fit))
        fits.append(fit)
        greedy_fits.append(greedy_fit)
        logs.append(
            {
                "raw": _loss(plain, sampled, torch.tensor(_GREEDY_START, dtype=torch.float64)),
                "plain": _loss(plain, sampled, still),
                "coupled": _loss(mixed, sampled, fit),
            }
        )
    return _content(accepted, torch.stack(fits), torch.stack(greedy_fits)), logs


def write(content: dict[str, Any], folder: Path) -> None:
    """Put a calibration into an adapter folder."""
    (folder / FILE).write_text(json.dumps(content, indent=1) + "\n")


def plain(guesses: Judged, constants: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [n, candidates + 1] by log q alone, the last that of none of them;
    ``constants``: log sharpness, none."""
    return _part(guesses.log_q, constants[0].exp(), guesses.noise, None, constants[1])


def mixed(guesses: Judged, constants: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [n, candidates + 1] by the formula of coupling; ``constants`` as START."""
    log_q, noise = guesses.log_q / FITTED_TEMPERATURE, guesses.noise
    sure, free = (
        _part(log_q, a.exp(), noise, b.exp(), c) for a, b, c in (constants[:3], constants[3:6])
    )
    share = constants[6]
    return torch.logaddexp(F.logsigmoid(share) + sure, F.logsigmoid(-share) + free)


def _part(
    log_q: torch.Tensor,
    sharpness: torch.Tensor,
    noise: torch.Tensor,
    weight: torch.Tensor | None,
    none: torch.Tensor,
) -> torch.Tensor:
    scores = sharpness * log_q
    if weight is not None:
        scores = scores + weight * noise
    return torch.cat([scores, none.expand(len(scores), 1)], dim=1).log_softmax(1)


Formula = Callable[[Judged, torch.Tensor], torch.Tensor]


def _loss(formula: Formula, guesses: Judged, constants: torch.Tensor) -> float:
    if not len(guesses.right):
        return 0.0
    chosen = formula(guesses, constants).gather(1, guesses.right[:, None])
    return -float(chosen.mean())


def _fitted(formula: Formula, guesses: Judged, start: Sequence[float]) -> torch.Tensor:
    """The likeliest constants, drawn a little to where they start."""
    origin = torch.tensor(start, dtype=torch.float64)
    constants = origin.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([constants], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        chosen = formula(guesses, constants).gather(1, guesses.right[:, None])
        prior = _PRIOR_TOKENS * 0.5 * (constants - origin).square().sum()
        loss = (prior - chosen.sum()) / (_PRIOR_TOKENS + len(guesses.right))
        torch.autograd.backward(loss)
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return constants.detach()


def _accepted(formula: Formula, guesses: Judged, constants: torch.Tensor) -> list[float]:
    """How often the guess of each rank, as the fitted formula ranks them, came true."""
    order = formula(guesses, constants)[:, :-1].sort(dim=1, descending=True, stable=True).indices
    hits = (order[:, :RANKS] == guesses.right[:, None]).double().sum(0)
    return [round(share, 4) for share in (hits / max(1, len(order))).tolist()]


def _judged(
    model: Any, heads: Guesser, outputs: Sequence[Output], temperature: float
) -> list[Judged]:
    """Every head's guesses along the worthwhile outputs."""
    good, _ = worthwhile(outputs)
    found = [judge(model, heads, output, temperature) for output in good]
    count = min(LOOKED_AT, model.get_output_embeddings().weight.shape[0])
    nothing = torch.zeros(0, count, dtype=torch.float64)
    empty = Judged(nothing, nothing, torch.zeros(0, dtype=torch.int64))
    return [
        Judged(
            torch.cat([empty.log_q, *(one[k].log_q for one in found)]),
            torch.cat([empty.noise, *(one[k].noise for one in found)]),
            torch.cat([empty.right, *(one[k].right for one in found)]),
        )
        for k in range(len(heads))
    ]


@torch.no_grad()
def judge(model: Any, heads: Guesser, output: Output, temperature: float) -> list[Judged]:
    """Every head's guesses along one output, the tokens in between being the true ones."""
    tokens = torch.tensor([output.prompt + output.tokens], device=model.device)
    hidden = last_hidden(model, tokens[:, :-1])[0, len(output.prompt) - 1 :]
    lm_head = model.get_output_embeddings()
    vocabulary = lm_head.weight.shape[0]
    own = torch.tensor(output.tokens, device=model.device)
    judged = []
    for head in range(len(heads)):
        # At place i token i is known, and token i + 1 + head is guessed.
        count = max(0, len(own) - 1 - head)
        path = following(tokens[:, len(output.prompt) - 1 :], count, head + 1)
        embedded = embeddings(model, path) if heads.reads_tokens else None
        log_q = heads.logits(head, hidden[:count], lm_head, embedded).float().log_softmax(-1)
        noise = torch.zeros_like(log_q)
        if temperature:
            places = range(len(output.prompt) + 1 + head, len(output.prompt) + 1 + head + count)
            noise = gumbel([output.seed] * count, list(places), vocabulary, log_q.device)
        scores = log_q / (temperature or 1.0) + noise
        top = scores.topk(min(LOOKED_AT, vocabulary)).indices
        hits = top == own[1 + head :, None]
        right = torch.where(hits.any(1), hits.int().argmax(1), top.shape[1])
        judged.append(Judged(log_q.gather(1, top).double(), noise.gather(1, top).double(), right))
    return [Judged(j.log_q.cpu(), j.noise.cpu(), j.right.cpu()) for j in judged]


def _content(
    accepted: dict[str, list[list[float]]], fits: torch.Tensor, greedy: torch.Tensor
) -> dict[str, Any]:
    def column(values: torch.Tensor) -> list[float]:
        return [round(value, 4) for value in values.tolist()]

    return {
        "accepted": accepted,
        "sharpness": column(fits[:, 3].exp()),
        "noise": column(fits[:, 4].exp()),
        "none": column(fits[:, 5]),
        "sure": {
            "share": column(fits[:, 6].sigmoid()),
            "sharpness": column(fits[:, 0].exp()),
            "noise": column(fits[:, 1].exp()),
            "none": column(fits[:, 2]),
        },
        "greedy": {"sharpness": column(greedy[:, 0].exp()), "none": column(greedy[:, 1])},
    }
