from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lorax_spec import embedded
from lorax_spec.adapters import lora
from lorax_spec.adapters.folder import open_folder, read_folder
from lorax_spec.adapters.inspect import inspect
from lorax_spec.adapters.shape import ModelShape, shape_of
from lorax_spec.adapters.slab import layout
from lorax_spec.adapters.tensor_file import StoredTensor, runs
from lorax_spec.adapters.weights import AdapterWeights
from tests.adapters.writers import (
    LINEARS,
    SHAPE,
    lora_config,
    lora_tensors,
    medusa_config,
    medusa_tensors,
    write_lora,
    write_medusa,
)


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=128,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return shape_of(tiny_llama(), "tests/tiny-llama")


def test_shape_of_a_model_is_its_linears_without_the_output(shape: ModelShape) -> None:
    assert dict(shape.linears) == LINEARS
    assert (shape.hidden_size, shape.vocab_size) == (64, 128)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_what_peft_writes_gives_what_peft_computes(
    tmp_path: Path, shape: ModelShape, rslora: bool, targets: str | list[str]
) -> None:
    config = peft.LoraConfig(
        r=8,
        lora_alpha=20,
        use_rslora=rslora,
        target_modules=targets,
        lora_dropout=0.1,
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    tuned = peft.get_peft_model(tiny_llama(), config).eval()
    tuned.save_pretrained(tmp_path)
    weights = read_folder(tmp_path, shape, torch.float32)
    assert weights.kind == "lora" and weights.lora is not None and weights.medusa is None

    served = tiny_llama()
    with torch.no_grad():
        for path, module in weights.lora.modules.items():
            served.get_submodule(path).weight += module.scale * module.b @ module.a
        tokens = torch.arange(20)[None]
        torch.testing.assert_close(served(tokens).logits, tuned(tokens).logits)


def assert_one_slab(weights: AdapterWeights) -> None:
    modules = weights.lora.modules.values() if weights.lora else ()
    views = [tensor for module in modules for tensor in (module.a, module.b)]
    if weights.medusa is not None:
        heads = (weights.medusa.weight, weights.medusa.bias, weights.medusa.lm_head)
        views += [head for head in heads if head is not None]
    slab = weights.slab.data
    assert slab.is_contiguous() and slab.dim() == 1 and weights.nbytes == slab.nbytes
    for view in views:
        assert view.untyped_storage().data_ptr() == slab.untyped_storage().data_ptr()
        assert view.is_contiguous() and view.data_ptr() % 64 == 0
    stored = sum(view.numel() for view in views)
    assert stored <= slab.numel() < stored + 64 * len(views)


def test_lora_goes_into_one_slab(tmp_path: Path) -> None:
    tensors = lora_tensors()
    weights = read_folder(write_lora(tmp_path, tensors=tensors), SHAPE, torch.bfloat16)
    assert_one_slab(weights)
    assert weights.lora is not None and weights.lora.rank == 4
    for path, module in weights.lora.modules.items():
        prefix = f"base_model.model.{path}"
        assert module.scale == 2.0
        assert torch.equal(module.a, tensors[f"{prefix}.lora_A.weight"].bfloat16())
        assert torch.equal(module.b, tensors[f"{prefix}.lora_B.weight"].bfloat16())


@pytest.mark.parametrize("heads", [1, 3, 12])
@pytest.mark.parametrize(
    ("layers", "own", "version"),
    [
        (1, False, None),
        (1, False, "2"),
        (1, False, 2),
        (2, False, 2.0),
        (1, True, None),
        (1, True, "1"),
        (2, True, 1),
        (0, True, None),
    ],
)
def test_medusa_heads(tmp_path: Path, heads: int, layers: int, own: bool, version: object) -> None:
    tensors = medusa_tensors(heads, layers, own)
    config = medusa_config(heads, layers)
    if version is not None:
        config["version"] = version
    weights = read_folder(write_medusa(tmp_path, config, tensors), SHAPE, torch.float32)
    assert_one_slab(weights)
    medusa = weights.medusa
    assert weights.kind == "medusa" and weights.lora is None and medusa is not None
    assert (medusa.num_heads, medusa.num_layers) == (heads, layers)
    assert medusa.weight.shape == (heads, layers, 64, 64)
    assert medusa.bias.shape == (heads, layers, 64)
    for head in range(heads):
        for layer in range(layers):
            name = f"{head}.{layer}.linear"
            assert torch.equal(medusa.weight[head, layer], tensors[f"{name}.weight"])
            assert torch.equal(medusa.bias[head, layer], tensors[f"{name}.bias"])
        if own:
            assert medusa.lm_head is not None
            assert torch.equal(medusa.lm_head[head], tensors[f"{head}.{layers}.weight"])
    assert own or medusa.lm_head is None


def test_joint_folder(tmp_path: Path) -> None:
    write_lora(tmp_path)
    write_medusa(tmp_path)
    weights = read_folder(tmp_path, SHAPE, torch.float32)
    assert_one_slab(weights)
    assert weights.kind == "lora+medusa"
    assert weights.lora is not None and len(weights.lora.modules) == 4
    assert weights.medusa is not None and weights.medusa.num_heads == 3


def test_a_base_config_beside_a_lora_is_no_medusa(tmp_path: Path) -> None:
    write_lora(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert read_folder(tmp_path, SHAPE, torch.float32).kind == "lora"


def test_tensors_may_lie_in_several_files(tmp_path: Path) -> None:
    tensors = lora_tensors()
    whole = read_folder(write_lora(tmp_path / "whole"), SHAPE, torch.float32)
    names = sorted(tensors)
    write_lora(tmp_path / "parts", tensors={name: tensors[name] for name in names[:3]})
    rest = write_lora(tmp_path / "rest", tensors={name: tensors[name] for name in names[3:]})
    (rest / "adapter_model.safetensors").rename(tmp_path / "parts" / "more.safetensors")
    assert read_folder(tmp_path / "parts", SHAPE, torch.float32).fingerprint == whole.fingerprint


def test_a_lora_as_peft_writes_it_is_read_in_one_run() -> None:
    base = AutoModelForCausalLM.from_pretrained(embedded.path() / "base")
    folder = open_folder(embedded.path() / "adapters" / "pirate")
    assert folder.configs.lora is not None
    plan = lora.planned(folder.configs.lora, folder.lora_tensors, shape_of(base, ""))
    pieces, numel = layout(plan.shapes)
    (run,) = runs({name: (tensor, pieces[name].offset) for name, tensor in plan.stored.items()})
    assert (run.first, run.last) == (0, numel) and len(run.ends) == 84


@given(data=st.data())
def test_the_short_way_gives_what_the_long_way_does(data: st.DataObject) -> None:
    rank, alpha = data.draw(st.integers(1, 5)), data.draw(st.integers(-9, 9))
    paths = data.draw(st.lists(st.sampled_from(sorted(LINEARS)), min_size=1, unique=True))
    config = lora_config(r=rank, lora_alpha=alpha, use_rslora=data.draw(st.booleans()))
    tensors = {}
    for at, path in enumerate(paths):
        out_features, in_features = LINEARS[path]
        sizes = {"A": (rank, in_features), "B": (out_features, rank)}
        for part, size in sizes.items():
            name = f"base_model.model.{path}.lora_{part}.weight"
            tensors[name] = StoredTensor(Path("x"), torch.float32, size, at, at + 4 * size[0])
    short = lora.plain_plan(config, tensors, SHAPE)
    long = lora.general_plan(config, tensors, SHAPE)
    assert short == long and short is not None
    assert list(short.shapes) == list(long.shapes)


def test_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    def fingerprint(
        name: str, seed: int = 0, dtype: torch.dtype = torch.float32, **config: int
    ) -> str:
        folder = write_lora(tmp_path / name, lora_config(**config), lora_tensors(seed=seed))
        return read_folder(folder, SHAPE, dtype).fingerprint

    first = fingerprint("a")
    assert fingerprint("b") == first
    others = [fingerprint("c", seed=1), fingerprint("d", lora_alpha=9)]
    others.append(fingerprint("e", dtype=torch.bfloat16))
    assert len({first, *others}) == 4


def test_a_copy_elsewhere_has_the_same_views(tmp_path: Path) -> None:
    write_lora(tmp_path)
    weights = read_folder(write_medusa(tmp_path), SHAPE, torch.float32)
    assert weights.to("cpu") is weights
    moved = weights.to("meta")
    assert moved.slab.data.is_meta and moved.fingerprint == weights.fingerprint
    assert moved.kind == weights.kind and moved.nbytes == weights.nbytes
    assert moved.lora is not None and weights.lora is not None
    assert {path: (one.rank, one.scale) for path, one in moved.lora.modules.items()} == {
        path: (one.rank, one.scale) for path, one in weights.lora.modules.items()
    }


def test_inspect_tells_what_is_there(tmp_path: Path) -> None:
    write_lora(tmp_path)
    write_medusa(tmp_path, medusa_config(version="2"))
    seen = inspect(tmp_path, SHAPE)
    assert seen.faults == ()
    assert (seen.kind, seen.rank, seen.medusa_heads, seen.medusa_layers) == ("lora+medusa", 4, 3, 1)
    assert (seen.medusa_version, seen.base_model) == (2, "tests/tiny-llama")
    stored = [*lora_tensors().values(), *medusa_tensors().values()]
    assert seen.bytes == sum(tensor.nbytes for tensor in stored)
