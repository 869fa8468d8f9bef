from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lorax_spec.errors import AdapterMismatch, InvalidArgument
from lorax_spec.train import kinds
from lorax_spec.train.heads import MedusaHeads
from lorax_spec.train.hydra import WEIGHTS, HydraHeads, from_medusa, load_hydra, save_hydra


def randomised(heads: torch.nn.Module) -> None:
    with torch.no_grad():
        for parameter in heads.parameters():
            # Values that bfloat16 holds exactly, so that a round trip must be exact too.
            parameter.copy_((torch.randn_like(parameter) * 0.3).bfloat16())


def test_a_new_head_is_the_base_lm_head(tiny_model: Any) -> None:
    hidden, between = torch.randn(5, 32), torch.randn(5, 2, 32)
    lm_head = tiny_model.get_output_embeddings()
    assert torch.equal(HydraHeads(32, 2, 16).logits(1, hidden, lm_head, between), lm_head(hidden))


def test_folder_round_trip_and_layout(tiny_model: Any, tmp_path: Path) -> None:
    heads = HydraHeads(32, 3, 24)
    randomised(heads)
    save_hydra(heads, tmp_path, "some/base")

    assert json.loads((tmp_path / "config.json").read_text()) == {
        "base_model_name_or_path": "some/base",
        "hydra_inner_size": 24,
        "hydra_num_heads": 3,
        "version": "1",
    }
    tensors = load_file(tmp_path / WEIGHTS)
    for k in range(3):
        assert tensors.pop(f"hydra.{k}.in.weight").shape == (24, (k + 2) * 32)
        assert tensors.pop(f"hydra.{k}.in.bias").shape == (24,)
        assert tensors.pop(f"hydra.{k}.out.weight").shape == (32, 24)
        assert tensors.pop(f"hydra.{k}.out.bias").shape == (32,)
    assert not tensors

    loaded = kinds.load(tmp_path, 32)
    assert isinstance(loaded, HydraHeads)
    hidden, between = torch.randn(7, 32), torch.randn(7, 3, 32)
    lm_head = tiny_model.get_output_embeddings()
    for k in range(3):
        inner, outer = heads.layers(k)
        x = torch.cat([hidden, *between.unbind(1)[: k + 1]], dim=1)
        state = hidden + F.silu(x @ inner.weight.T + inner.bias) @ outer.weight.T + outer.bias
        found = loaded.logits(k, hidden, lm_head, between)
        torch.testing.assert_close(found, state @ lm_head.weight.T, rtol=1e-4, atol=1e-4)


def test_another_head_count_keeps_the_first_heads(tmp_path: Path) -> None:
    heads = HydraHeads(32, 2, 24)
    randomised(heads)
    save_hydra(heads, tmp_path, "some/base")
    fewer, more = load_hydra(tmp_path, 32, 1), load_hydra(tmp_path, 32, 4)
    assert (len(fewer), len(more), more.inner_size) == (1, 4, 24)
    assert torch.equal(more.layers(1)[0].weight, heads.layers(1)[0].weight)
    assert more.layers(3)[1].weight.abs().max() == 0


def test_heads_of_another_width_are_refused(tmp_path: Path) -> None:
    save_hydra(HydraHeads(32, 2, 24), tmp_path, "some/base")
    with pytest.raises(AdapterMismatch, match="over 64 inputs; this model's hidden size is 48"):
        load_hydra(tmp_path, 48)
    with pytest.raises(InvalidArgument, match="neither"):
        kinds.load(tmp_path / "nowhere", 32)


@pytest.mark.parametrize("inner_size", [32, 50])
def test_hydra_heads_begin_as_the_medusa_heads_they_are_made_from(
    tiny_model: Any, inner_size: int
) -> None:
    medusa = MedusaHeads(32, 2)
    randomised(medusa)
    hydra = from_medusa(medusa, 3, inner_size)
    hidden, between = torch.randn(7, 32), torch.randn(7, 3, 32)
    lm_head = tiny_model.get_output_embeddings()
    for k in range(2):
        torch.testing.assert_close(
            hydra.logits(k, hidden, lm_head, between), medusa.logits(k, hidden, lm_head)
        )
    assert torch.equal(hydra.logits(2, hidden, lm_head, between), lm_head(hidden))


def test_medusa_heads_that_do_not_fit_are_refused(tiny_model: Any) -> None:
    with pytest.raises(AdapterMismatch, match="no room"):
        from_medusa(MedusaHeads(32, 2), 2, 31)
    v1 = MedusaHeads(32, 1)
    v1.add_lm_heads(tiny_model.get_output_embeddings().weight)
    with pytest.raises(AdapterMismatch, match="of their own"):
        from_medusa(v1, 1, 64)
