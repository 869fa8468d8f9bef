"""Hydra heads: read as written, refused with the reason where they are not as they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lorax_spec.adapters.folder import read_folder
from lorax_spec.adapters.inspect import inspect
from lorax_spec.errors import AdapterMismatch
from tests.adapters.rig import Rig
from tests.adapters.test_refusals import assert_refused
from tests.adapters.writers import (
    SHAPE,
    hydra_config,
    hydra_tensors,
    lora_tensors,
    medusa_config,
    medusa_tensors,
    write_hydra,
    write_lora,
)


@pytest.mark.parametrize(("heads", "inner"), [(1, 16), (4, 1), (12, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_are_read_into_one_slab(
    tmp_path: Path, heads: int, inner: int, dtype: torch.dtype
) -> None:
    tensors = hydra_tensors(heads, inner)
    folder = write_hydra(tmp_path, hydra_config(heads, inner), tensors)
    (folder / "hydra_heads.safetensors").rename(folder / "by_another_name.safetensors")
    weights = read_folder(folder, SHAPE, dtype)
    hydra = weights.hydra
    assert weights.kind == "hydra" and hydra is not None and weights.heads is hydra
    assert weights.lora is None and weights.medusa is None
    assert (hydra.num_heads, hydra.inner_size) == (heads, inner)
    assert hydra.calibration is None and hydra.choices is None
    slab = weights.slab.data
    for head in range(heads):
        for part, views in (
            ("in.weight", hydra.input_weight),
            ("in.bias", hydra.input_bias),
            ("out.weight", hydra.output_weight),
            ("out.bias", hydra.output_bias),
        ):
            assert len(views) == heads
            assert torch.equal(views[head], tensors[f"hydra.{head}.{part}"].to(dtype))
            assert views[head].untyped_storage().data_ptr() == slab.untyped_storage().data_ptr()
            assert views[head].data_ptr() % 64 == 0
    moved = weights.to("meta")
    assert moved.hydra is not None and moved.kind == "hydra"
    assert moved.hydra.input_weight[-1].shape == hydra.input_weight[-1].shape
    assert moved.fingerprint == weights.fingerprint


def test_heads_and_a_lora_in_one_folder(tmp_path: Path) -> None:
    write_lora(tmp_path)
    weights = read_folder(write_hydra(tmp_path), SHAPE, torch.float32)
    assert weights.kind == "lora+hydra"
    assert weights.lora is not None and len(weights.lora.modules) == 4
    assert weights.hydra is not None and weights.hydra.num_heads == 2
    seen = inspect(tmp_path, SHAPE)
    assert (seen.kind, seen.rank, seen.hydra_heads, seen.hydra_inner_size) == (
        "lora+hydra",
        4,
        2,
        16,
    )
    assert (seen.medusa_heads, seen.calibrated, seen.choices, seen.faults) == (0, False, 0, ())
    stored = [*lora_tensors().values(), *hydra_tensors().values()]
    assert seen.bytes == sum(tensor.nbytes for tensor in stored)


def test_the_fingerprint_is_of_the_heads(tmp_path: Path) -> None:
    def fingerprint(name: str, seed: int) -> str:
        folder = write_hydra(tmp_path / name, tensors=hydra_tensors(seed=seed))
        return read_folder(folder, SHAPE, torch.float32).fingerprint

    assert fingerprint("a", 1) == fingerprint("b", 1) != fingerprint("c", 2)


def without(name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in hydra_tensors().items() if key != name}


@pytest.mark.parametrize(
    ("config", "tensors", "why"),
    [
        (hydra_config(3), hydra_tensors(2), r"says 3 heads, the tensors are of heads \[0, 1\]"),
        (hydra_config(1), hydra_tensors(2), r"says 1 heads, the tensors are of heads \[0, 1\]"),
        (hydra_config(10**9), hydra_tensors(2), "says 1000000000 heads"),
        (hydra_config(0), hydra_tensors(2), "hydra_num_heads is 0"),
        (hydra_config(hydra_num_heads=None), hydra_tensors(2), "hydra_num_heads is None"),
        (hydra_config(2, 10**9), hydra_tensors(2), r"in.weight is \[16, 128\], .* \[1000000000, "),
        (hydra_config(hydra_inner_size="16"), hydra_tensors(2), "hydra_inner_size is '16'"),
        (hydra_config(2, 15), hydra_tensors(2), r"0.in.weight is \[16, 128\], .* \[15, 128\]"),
        (hydra_config(version="2"), hydra_tensors(2), "Hydra version '2' is not supported"),
        (
            hydra_config(base_model_name_or_path="meta/Llama-2"),
            hydra_tensors(),
            "made for meta/Llama-2",
        ),
        (hydra_config(), hydra_tensors(hidden=32), r"0.in.weight is \[16, 64\], .* \[16, 128\]"),
        (hydra_config(), without("hydra.1.out.bias"), "tensor hydra.1.out.bias is missing"),
        (
            hydra_config(),
            hydra_tensors() | {"hydra.1.in.weight": torch.zeros(16, 128)},
            r"hydra.1.in.weight is \[16, 128\], this model needs \[16, 192\]",
        ),
        (
            hydra_config(),
            hydra_tensors() | {"hydra.1.mid.weight": torch.zeros(16, 16)},
            "tensor hydra.1.mid.weight is not supported",
        ),
        (
            hydra_config(),
            hydra_tensors() | {"hydra.1.out.bias": torch.full((64,), torch.nan)},
            "not finite in float32: hydra.1.out.bias",
        ),
        (
            hydra_config() | medusa_config(),
            hydra_tensors(),
            "both medusa_num_heads and hydra_num_heads",
        ),
        (
            hydra_config(),
            hydra_tensors() | medusa_tensors(),
            "it holds Medusa and Hydra heads; an adapter has heads of one kind",
        ),
        (medusa_config(2), hydra_tensors(), "hydra.0.in.bias is there, but no config.json speaks"),
        (hydra_config(3), medusa_tensors(3), "0.0.linear.bias is there, but no config.json speaks"),
    ],
)
def test_refusals(
    tmp_path: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], why: str
) -> None:
    assert_refused(write_hydra(tmp_path, config, tensors), why)


def test_without_a_model_the_heads_must_still_fit_themselves(tmp_path: Path) -> None:
    assert inspect(write_hydra(tmp_path / "a", tensors=hydra_tensors(hidden=32))).faults == ()
    broken = hydra_tensors() | {"hydra.1.out.weight": torch.zeros(65, 16)}
    assert inspect(write_hydra(tmp_path / "b", tensors=broken)).faults != ()


def test_heads_are_hot_loaded_beside_others(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    write_hydra(tmp_path / "hydra")
    assert (rig.info("hydra").kind, rig.info("hydra").medusa_heads) == ("hydra", 2)
    lease = rig.take("a", "hydra")
    assert lease.ready and [weights.kind for weights in lease.weights] == ["lora", "hydra"]
    (tmp_path / "hydra" / "config.json").write_text('{"hydra_num_heads": 9}')
    fault = rig.take("hydra")
    assert isinstance(fault.error, AdapterMismatch) and lease.ready
    rig.manager.check_integrity()
    assert rig.info("hydra").state in ("failed", "evicting")
