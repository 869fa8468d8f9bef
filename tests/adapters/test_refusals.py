"""Every folder that cannot be served is refused before any of it is, and the error says why."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lorax_spec.adapters.folder import read_folder
from lorax_spec.adapters.inspect import inspect
from lorax_spec.adapters.shape import ModelShape
from lorax_spec.errors import AdapterMismatch
from tests.adapters.writers import (
    SHAPE,
    lora_config,
    lora_tensors,
    medusa_config,
    medusa_tensors,
    write_lora,
    write_medusa,
)

Q = "base_model.model.model.layers.0.self_attn.q_proj"


def assert_refused(folder: Path, why: str, shape: ModelShape = SHAPE) -> None:
    with pytest.raises(AdapterMismatch, match=why):
        read_folder(folder, shape, torch.float32)
    faults = inspect(folder, shape).faults
    assert any(re.search(why, fault) for fault in faults), faults


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"use_dora": True}, "use_dora is set, but .*_proj has no lora_magnitude_vector"),
        ({"bias": "some"}, "bias='some' is none of"),
        ({"lora_bias": True}, "lora_bias is set, but .*_proj has no lora_B.bias"),
        ({"use_dora": True, "lora_bias": True}, "together are not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save names lm_head, of which there is no"),
        ({"modules_to_save": "lm_head"}, "modules_to_save is 'lm_head', not a list"),
        ({"rank_pattern": {"q_proj": 2}}, r"lora_A.weight is \[4, 64\], .* needs \[2, 64\]"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern: 'q_proj' has 0"),
        ({"rank_pattern": [4]}, "rank_pattern is not an object"),
        ({"alpha_pattern": {"q_proj": True}}, "alpha_pattern: 'q_proj' has True"),
        ({"alpha_pattern": {"(q": 1}}, "alpha_pattern: '.q' is a regular expression of a kind"),
        ({"alpha_pattern": {"(a*)*b": 1}}, "is a regular expression of a kind"),
        ({"alpha_pattern": {".*.*.*x": 1}}, "is a regular expression of a kind"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices=.1. is not supported"),
        ({"target_parameters": ["experts"]}, "target_parameters"),
        ({"use_qalora": True}, "use_qalora"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"an_option_of_the_future": 1}, "an_option_of_the_future=1 is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4' changes the base weights"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"peft_type": None}, "peft_type is None"),
        ({"r": 0}, "r is 0"),
        ({"r": True}, "r is True"),
        ({"r": "4"}, "r is '4'"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"r": 8}, r"q_proj.lora_A.weight is \[4, 64\], this model needs \[8, 64\]"),
        ({"base_model_name_or_path": "meta/Llama-2"}, "made for meta/Llama-2, .* tests/tiny-llama"),
    ],
)
def test_lora_configs(tmp_path: Path, change: dict[str, Any], why: str) -> None:
    assert_refused(write_lora(tmp_path, lora_config(**change)), why)


@pytest.mark.parametrize(
    "base",
    [
        None,
        "",
        "tests/tiny-llama",
        "Tests/Tiny-Llama",
        "mirror/tiny-llama",
        "/models/other",
        "./checkpoints/base",
        "build/train/base",
        "friend/renamed",
        "name",
    ],
)
def test_base_models_that_may_be_this_one(tmp_path: Path, base: str | None) -> None:
    shape = replace(SHAPE, other_names=("friend/renamed",))
    read_folder(
        write_lora(tmp_path, lora_config(base_model_name_or_path=base)), shape, torch.float32
    )


def test_a_model_served_from_a_path_takes_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_lora(tmp_path, lora_config(base_model_name_or_path="meta/Llama-2"))
    read_folder(folder, replace(SHAPE, model_id="/models/llama"), torch.float32)
    monkeypatch.chdir(tmp_path)
    assert_refused(folder, "made for meta/Llama-2", replace(SHAPE, model_id="models/llama"))
    (tmp_path / "models" / "llama").mkdir(parents=True)
    read_folder(folder, replace(SHAPE, model_id="models/llama"), torch.float32)


def renamed(tensors: dict[str, torch.Tensor], old: str, new: str) -> dict[str, torch.Tensor]:
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t.pop(f"{Q}.lora_A.weight"), "q_proj.lora_A.weight is missing"),
        (lambda t: t.pop(f"{Q}.lora_B.weight"), "q_proj.lora_B.weight is missing"),
        (
            lambda t: t.update({f"{Q}.lora_B.weight": torch.zeros(65, 4)}),
            r"q_proj.lora_B.weight is \[65, 4\], this model needs \[64, 4\]",
        ),
        (
            lambda t: t.update({f"{Q}.lora_A.weight": torch.zeros(4)}),
            r"lora_A.weight is \[4\], this model needs \[4, 64\]",
        ),
        (
            lambda t: t.update(
                {f"{Q}.lora_A.weight".replace("0", "7", 1): t.pop(f"{Q}.lora_A.weight")}
            ),
            "target module model.layers.7.self_attn.q_proj is no linear layer",
        ),
        (
            lambda t: t.update({f"{Q}.lora_magnitude_vector": torch.zeros(64)}),
            "tensors named lora_magnitude_vector, but use_dora is not set",
        ),
        (
            lambda t: t.update({f"{Q}.lora_E": torch.zeros(64)}),
            "lora_E is no part of a LoRA",
        ),
        (lambda t: t.update({"lm_head.weight": torch.zeros(1)}), "lm_head.weight is not supported"),
        (
            lambda t: t.update({"0.0.linear.bias": torch.zeros(64)}),
            "0.0.linear.bias is there, but no config.json speaks of it",
        ),
        (
            lambda t: t.update({f"{Q}.lora_A.weight": torch.full((4, 64), torch.nan)}),
            "not finite in float32: .*model.layers.0.self_attn.q_proj.lora_A",
        ),
        (
            lambda t: t.update({f"{Q}.lora_A.weight": torch.zeros(4, 64, dtype=torch.int8)}),
            "has dtype I8",
        ),
    ],
)
def test_lora_tensors(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], object], why: str
) -> None:
    tensors = lora_tensors()
    change(tensors)
    assert_refused(write_lora(tmp_path, tensors=tensors), why)


def test_what_overflows_the_models_dtype(tmp_path: Path) -> None:
    tensors = lora_tensors() | {f"{Q}.lora_A.weight": torch.full((4, 64), 1e6)}
    folder = write_lora(tmp_path, tensors=tensors)
    read_folder(folder, SHAPE, torch.float32)
    with pytest.raises(AdapterMismatch, match="not finite in float16"):
        read_folder(folder, SHAPE, torch.float16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", [0, 31, 100, 255])
def test_one_number_is_not_finite(
    tmp_path: Path, dtype: torch.dtype, value: float, place: int
) -> None:
    tensors = lora_tensors()
    tensors[f"{Q}.lora_B.weight"].view(-1)[place] = value
    folder = write_lora(tmp_path, tensors=tensors)
    with pytest.raises(AdapterMismatch, match=r"not finite in \w+: model.layers.0.*q_proj.lora_B$"):
        read_folder(folder, SHAPE, dtype)


def test_lora_of_another_models_size(tmp_path: Path) -> None:
    tensors = {name: torch.cat([t, t], dim=1) for name, t in lora_tensors().items()}
    with pytest.raises(AdapterMismatch, match=r"; and 3 more$") as caught:
        read_folder(write_lora(tmp_path, tensors=tensors), SHAPE, torch.float32)
    assert caught.value.message.count(";") == 5


@pytest.mark.parametrize(
    ("config", "tensors", "why"),
    [
        (
            medusa_config(2),
            medusa_tensors(5),
            r"says 2 heads, the tensors are of heads \[0, 1, 2, 3, 4",
        ),
        (
            medusa_config(5),
            medusa_tensors(3),
            r"says 5 heads, the tensors are of heads \[0, 1, 2\]",
        ),
        (medusa_config(10**9), medusa_tensors(3), "says 1000000000 heads"),
        (medusa_config(3, 2), medusa_tensors(3), "says 2 layers to a head, the tensors have 1"),
        (medusa_config(3, 10**9), medusa_tensors(3), "says 1000000000 layers"),
        (medusa_config(3, 1), medusa_tensors(3, 2), "says 1 layers to a head, the tensors have 2"),
        (medusa_config(0), medusa_tensors(3), "medusa_num_heads is 0"),
        (medusa_config("3"), medusa_tensors(3), "medusa_num_heads is '3'"),
        (medusa_config(version="1"), medusa_tensors(), "says version 1, but the heads lack own"),
        (medusa_config(version=2), medusa_tensors(3, 1, True), "version 2, but the heads have own"),
        (medusa_config(version=3), medusa_tensors(), "Medusa version 3 is not supported"),
        (
            medusa_config(base_model_name_or_path="meta/Llama-2"),
            medusa_tensors(),
            "made for meta/Llama-2",
        ),
        (
            medusa_config(),
            renamed(medusa_tensors(), "2.0.", "7.0."),
            r"says 3 heads, the tensors are of heads \[0, 1, 7\]",
        ),
        (
            medusa_config(),
            medusa_tensors() | {"1.0.linear.bias": torch.zeros(65)},
            r"1.0.linear.bias is \[65\], this model needs \[64\]",
        ),
        (
            medusa_config(),
            {n: t for n, t in medusa_tensors().items() if n != "1.0.linear.bias"},
            "tensor 1.0.linear.bias is missing",
        ),
        (
            medusa_config(),
            {n: t for n, t in medusa_tensors(3, 1, True).items() if n != "1.1.weight"},
            "tensor 1.1.weight is missing",
        ),
        (
            medusa_config(),
            medusa_tensors(3, 1, True) | {"1.1.weight": torch.zeros(127, 64)},
            r"1.1.weight is \[127, 64\], this model needs \[128, 64\]",
        ),
        (
            medusa_config(),
            medusa_tensors(3, 1, True) | {"1.0.weight": torch.zeros(64, 64)},
            "1.0.weight belongs to no layer of a head",
        ),
        (
            medusa_config(),
            medusa_tensors() | {"1.0.linear.weight": torch.full((64, 64), torch.inf)},
            "not finite in float32: (medusa.weight|1.0.linear.weight)",
        ),
    ],
)
def test_medusa(
    tmp_path: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], why: str
) -> None:
    assert_refused(write_medusa(tmp_path, config, tensors), why)


def test_a_joint_folder_is_refused_for_either_part(tmp_path: Path) -> None:
    write_lora(tmp_path, lora_config(use_dora=True))
    write_medusa(tmp_path, medusa_config(2))
    faults = " ".join(inspect(tmp_path, SHAPE).faults)
    assert "use_dora" in faults and "says 2 heads" in faults


def test_missing_files(tmp_path: Path) -> None:
    folder = write_lora(tmp_path)
    (folder / "adapter_config.json").rename(folder / "elsewhere.json")
    assert_refused(folder, "neither adapter_config.json nor a config.json")
    (folder / "elsewhere.json").rename(folder / "adapter_config.json")
    (folder / "adapter_model.safetensors").unlink()
    assert_refused(folder, "no .safetensors file")
    assert_refused(tmp_path / "nowhere", "neither adapter_config.json nor")


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("name", ["medusa_lm_head.pt", "adapter_model.bin"])
def test_pickles_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_medusa(tmp_path / "adapter")
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    read_folder(folder, SHAPE, torch.float32)
    (folder / "medusa_lm_head.safetensors").unlink()
    bare = "is no zip archive" if name == "medusa_lm_head.pt" else f"{name} is a pickle"
    assert_refused(folder, bare)
    torch.save(medusa_tensors() | {"bomb": Bomb()}, folder / name)
    assert_refused(folder, "pickle wants to call '.* mkdir'|is a pickle, which is not read")
    (folder / name).rename(folder / "medusa_lm_head.safetensors")
    assert_refused(folder, "not a whole safetensors file")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "\xff", "[" * 100_000, '{"r": ' + "1" * 5000 + "}", " " * 2**21]
)
def test_broken_configs(tmp_path: Path, text: str) -> None:
    folder = write_lora(tmp_path)
    (folder / "adapter_config.json").write_text(text, encoding="latin-1")
    assert_refused(folder, "adapter_config.json is not")


def test_a_tensor_in_two_files(tmp_path: Path) -> None:
    folder = write_lora(tmp_path)
    name = f"{Q}.lora_A.weight"
    save_file({name: torch.zeros(4, 64)}, folder / "more.safetensors")
    assert_refused(folder, "is in adapter_model.safetensors and more.safetensors")


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    folder = write_lora(tmp_path)
    os.mkfifo(folder / "z.safetensors")  # opening it would block for ever
    assert_refused(folder, "z.safetensors is not a regular file")
    (folder / "z.safetensors").unlink()
    (folder / "z.safetensors").mkdir()
    assert_refused(folder, "z.safetensors is not a regular file")


def test_a_slab_over_the_budget_is_refused_unread(tmp_path: Path) -> None:
    folder = write_lora(tmp_path)
    needed = read_folder(folder, SHAPE, torch.float32).nbytes
    assert read_folder(folder, SHAPE, torch.float32, max_bytes=needed).nbytes == needed
    os.truncate(folder / "adapter_model.safetensors", _data_start(folder))
    with pytest.raises(AdapterMismatch):
        read_folder(folder, SHAPE, torch.float32, max_bytes=needed - 1)


def _data_start(folder: Path) -> int:
    with (folder / "adapter_model.safetensors").open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def test_without_a_model_only_what_is_wrong_for_all_is_found(tmp_path: Path) -> None:
    folder = write_lora(tmp_path / "a", lora_config(base_model_name_or_path="meta/Llama-2"))
    assert inspect(folder).faults == ()
    assert inspect(folder, SHAPE).faults != ()
    assert inspect(write_lora(tmp_path / "b", lora_config(r=8))).faults != ()
    assert inspect(write_medusa(tmp_path / "c")).faults == ()
    assert inspect(write_medusa(tmp_path / "d", medusa_config(2))).faults != ()


def test_json_of_a_config_is_not_trusted(tmp_path: Path) -> None:
    config = lora_config(base_model_name_or_path={"a": 1}, use_rslora=[])
    folder = write_lora(tmp_path, json.loads(json.dumps(config)))
    assert read_folder(folder, SHAPE, torch.float32).lora is not None
