from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from lorax_spec.speculation.coupling import head_constants, worths
from lorax_spec.train import calibrate
from lorax_spec.train.acceptance import Output, drafts, generate, plainly
from lorax_spec.train.calibrate import Judged, calibration, judge, mixed, own_outputs, plain
from lorax_spec.train.coupled import Coupled
from lorax_spec.train.heads import MedusaHeads
from lorax_spec.train.hydra import HydraHeads

PROMPTS = [[5 + i, 6, 7 + i] for i in range(12)]


def true_heads(model: Any) -> HydraHeads:
    """A fresh Hydra head is the base at the row before: right about the token already there."""
    return HydraHeads(32, 2, 8)


def synthetic(count: int, sharpness: float, weight: float) -> Judged:
    """Guesses whose truth is drawn from softmax(sharpness * log q / 0.8 + weight * noise)."""
    generator = torch.Generator().manual_seed(2)
    log_q = (torch.randn(count, 20, generator=generator, dtype=torch.float64) * 2).log_softmax(-1)
    uniform = torch.rand(count, 20, generator=generator, dtype=torch.float64)
    noise = -torch.log(-torch.log(uniform))
    truth = (sharpness * log_q / 0.8 + weight * noise).softmax(-1)
    return Judged(log_q, noise, torch.multinomial(truth, 1, generator=generator)[:, 0])


def test_a_fit_finds_how_much_head_and_noise_count() -> None:
    for sharpness, weight in ((1.2, 0.9), (0.7, 0.3)):
        guesses = synthetic(6000, sharpness, weight)
        fit = calibrate._fitted(mixed, guesses, calibrate._START)
        found = mixed(guesses, fit).exp()[:, :-1]
        truth = (sharpness * guesses.log_q / 0.8 + weight * guesses.noise).softmax(-1)
        assert float((found - truth).abs().sum(1).mean()) < 0.06
        deaf = calibrate._fitted(plain, guesses, calibrate._GREEDY_START)
        start = torch.tensor(calibrate._START, dtype=torch.float64)
        best = calibrate._loss(mixed, guesses, fit)
        assert best < calibrate._loss(mixed, guesses, start)
        assert best < calibrate._loss(plain, guesses, deaf)


def test_the_engine_s_formula_is_the_fitted_one(tiny_model: Any) -> None:
    content, losses = calibration(
        tiny_model, MedusaHeads(32, 2), own_outputs(tiny_model, PROMPTS, 0, 40)
    )
    (constants, _), guesses = head_constants(content), synthetic(50, 1.0, 1.0)
    sure = content["sure"]
    numbers = [
        *(torch.tensor(x[0]) for x in (sure["sharpness"], sure["noise"], sure["none"])),
        *(torch.tensor(content[name][0]) for name in ("sharpness", "noise", "none")),
        torch.tensor(sure["share"][0]),
    ]
    vector = torch.stack(
        [
            n.log() if i in (0, 1, 3, 4) else n.logit() if i == 6 else n
            for i, n in enumerate(numbers)
        ]
    ).double()
    expected = mixed(guesses, vector).exp()[:, :-1].numpy()
    found = worths(guesses.log_q.numpy(), guesses.noise.numpy(), 0.8, constants)
    torch.testing.assert_close(
        torch.from_numpy(found), torch.from_numpy(expected), rtol=1e-3, atol=1e-6
    )
    assert losses[0]["coupled"] <= losses[0]["raw"]


def test_guesses_are_judged_by_the_tokens_that_came(tiny_model: Any) -> None:
    """A fresh head repeats what the base said one row earlier, noise and all."""
    (output,) = generate(tiny_model, [[5, 6, 7]], temperature=0.8, new_tokens=12, seed=4)
    first, second = judge(tiny_model, true_heads(tiny_model), output, 0.8)
    assert len(first.right) == len(output.tokens) - 1
    assert len(second.right) == len(output.tokens) - 2
    ids = torch.tensor([output.prompt + output.tokens])
    log_q = tiny_model(ids).logits[0, len(output.prompt) - 1 :].log_softmax(-1)
    for k, guesses in enumerate((first, second)):
        for place, right in enumerate(guesses.right.tolist()):
            token = output.tokens[place + 1 + k]
            # All 64 tokens of this vocabulary are candidates.
            assert abs(float(guesses.log_q[place, right] - log_q[place, token])) < 1e-4


def test_a_calibration_has_the_layout_that_is_served(tiny_model: Any, tmp_path: Path) -> None:
    heads = HydraHeads(32, 2, 8)
    outputs = own_outputs(tiny_model, PROMPTS, 1, 40)
    content, losses = calibration(tiny_model, heads, outputs)
    calibrate.write(content, tmp_path)
    assert json.loads((tmp_path / "calibration.json").read_text()) == content
    assert set(content) == {"accepted", "sharpness", "noise", "none", "sure", "greedy"}
    for mode in ("greedy", "sampled"):
        table = content["accepted"][mode]
        assert [len(ranks) for ranks in table] == [10, 10]
        assert all(0.0 <= share <= 1.0 for ranks in table for share in ranks)
        assert all(sum(ranks) <= 1.0 + 1e-3 for ranks in table)
    for row in (content["sharpness"], content["noise"], *content["sure"].values()):
        assert len(row) == len(losses) == 2
    assert content == calibration(tiny_model, heads, outputs)[0]


def test_coupled_drafts_hear_the_noise(tiny_model: Any) -> None:
    """Heads that know the model, and constants that trust the noise: every guess comes true."""

    class Knowing(MedusaHeads):
        reads_tokens = True

        def logits(self, head: int, hidden: Any, lm_head: Any, embedded: Any = None) -> Any:
            table = tiny_model.get_input_embeddings().weight
            last = int(torch.cdist(embedded[:1, 0], table).argmin())
            ids = torch.tensor([[*output.prompt, *output.tokens[:1]]])
            assert last == output.tokens[0]
            return tiny_model(ids).logits[0, -1:]

    (whole,) = generate(tiny_model, [[5, 6, 7]], temperature=0.8, new_tokens=2, seed=9)
    output = Output(whole.prompt, whole.tokens[:1], whole.seed)
    sharp = {"sharpness": [1.0], "noise": [1.0], "none": [-20.0]}
    greedy = {"sharpness": [1.0], "none": [-20.0]}
    constants = head_constants(sharp | {"sure": sharp | {"share": [0.5]}, "greedy": greedy})
    coupled = drafts(tiny_model, Knowing(32, 1), output, 0, Coupled(output, 0.8, constants))
    assert coupled == [{(whole.tokens[1],)}]
    greedy_draft = drafts(tiny_model, Knowing(32, 1), output, 0, Coupled(output, 0.0, constants))
    assert greedy_draft == drafts(tiny_model, Knowing(32, 1), output, 0, plainly)
