from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from lorax_spec.errors import AdapterMismatch
from lorax_spec.train.heads import WEIGHTS, MedusaHeads, load_heads, save_heads


def random_heads(model: Any, count: int, own: bool) -> MedusaHeads:
    heads = MedusaHeads(32, count)
    if own:
        heads.add_lm_heads(model.get_output_embeddings().weight)
    with torch.no_grad():
        for parameter in heads.parameters():
            # Values that bfloat16 holds exactly, so that a round trip must be exact too.
            parameter.copy_(torch.randn_like(parameter).bfloat16())
    return heads


def test_a_new_head_is_the_base_lm_head(tiny_model: Any) -> None:
    hidden = torch.randn(5, 32)
    lm_head = tiny_model.get_output_embeddings()
    assert torch.equal(MedusaHeads(32, 2).logits(1, hidden, lm_head), lm_head(hidden))


@pytest.mark.parametrize("own", [False, True], ids=["v2", "v1"])
def test_folder_round_trip_and_layout(tiny_model: Any, tmp_path: Path, own: bool) -> None:
    heads = random_heads(tiny_model, 3, own)
    save_heads(heads, tmp_path, "some/base")

    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {
        "base_model_name_or_path": "some/base",
        "medusa_num_heads": 3,
        "medusa_num_layers": 1,
        "version": "1" if own else "2",
    }
    tensors = load_file(tmp_path / WEIGHTS)
    names = {f"{k}.0.linear.{part}" for k in range(3) for part in ("weight", "bias")}
    assert set(tensors) == names | ({f"{k}.1.weight" for k in range(3)} if own else set())
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}

    loaded, hidden = load_heads(tmp_path, 32), torch.randn(7, 32)
    lm_head = tiny_model.get_output_embeddings()
    for k in range(3):
        weight, bias = heads.block(k).weight, heads.block(k).bias
        moved = hidden + F.silu(hidden @ weight.T + bias)
        vocabulary = heads.lm_heads[k] if heads.lm_heads is not None else lm_head.weight
        torch.testing.assert_close(loaded.logits(k, hidden, lm_head), moved @ vocabulary.T)


def test_another_head_count_keeps_the_first_heads(tiny_model: Any, tmp_path: Path) -> None:
    heads = random_heads(tiny_model, 2, own=False)
    save_heads(heads, tmp_path, "some/base")
    fewer, more = load_heads(tmp_path, 32, 1), load_heads(tmp_path, 32, 4)
    assert len(fewer) == 1
    assert len(more) == 4
    assert torch.equal(more.block(1).weight, heads.block(1).weight)
    assert more.block(3).weight.abs().max() == 0


def test_heads_of_another_width_are_refused(tiny_model: Any, tmp_path: Path) -> None:
    save_heads(random_heads(tiny_model, 2, own=False), tmp_path, "some/base")
    with pytest.raises(AdapterMismatch, match=r"\(32, 32\).*hidden size is 48"):
        load_heads(tmp_path, 48)
