"""Merged adapters run as peft runs them, in one batch with their parts and the base model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorax_spec import embedded
from lorax_spec.adapters.folder import read_folder
from lorax_spec.adapters.merging import MergeRecipe, merge
from lorax_spec.adapters.weights import OUTPUT, AdapterWeights
from tests.engine.peft_forms import Served, logits_by_peft

#: Beside the shipped ones of rank 8; each has a random adapter.
OTHERS: dict[str, dict[str, Any]] = {
    "wide": {"r": 8, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj", "lm_head"]},
    "narrow": {"r": 3, "lora_alpha": 9, "target_modules": ["q_proj"]},
}
SHIPPED = ("pirate", "tests")
TOKENS = 20


def new_model() -> PreTrainedModel:
    base: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        embedded.path() / "base", dtype=torch.float32
    )
    return base


@dataclass(frozen=True)
class House:
    served: Served
    peft: PeftModel
    parts: dict[str, AdapterWeights]

    def by_peft(self, name: str, tokens: list[int]) -> torch.Tensor:
        self.peft.set_adapter(name)
        return logits_by_peft(self.peft, tokens)

    def add(self, names: list[str], recipe: MergeRecipe, merged: AdapterWeights) -> None:
        """The reference: what peft merges, or for what it refuses or draws, what peft computes
        with the tensors that ``test_merging.py`` holds to its maths."""
        own = recipe.method in ("linear", "ties") and "narrow" not in names
        others = [name for name in names if name != "narrow"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.peft.add_weighted_adapter(
                names if own else others,
                list(recipe.weights) if own else [1.0] * len(others),
                "merged",
                recipe.method if own else "linear",
                density=recipe.density,
                majority_sign_method=recipe.majority_sign_method,
            )
        assert merged.lora is not None
        for path, layer in self.peft.base_model.model.named_modules():
            if own or "merged" not in getattr(layer, "lora_A", {}):
                continue
            module = merged.lora.modules[OUTPUT if path == "lm_head" else path]
            layer.lora_A["merged"].weight.data = module.a
            layer.lora_B["merged"].weight.data = module.b


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folders = {name: embedded.path() / "adapters" / name for name in SHIPPED}
    wrapped = PeftModel.from_pretrained(new_model(), folders["pirate"], adapter_name="pirate")
    wrapped.load_adapter(folders["tests"], adapter_name="tests")
    noise = torch.Generator().manual_seed(1)
    for name, options in OTHERS.items():
        wrapped.add_adapter(name, LoraConfig(task_type="CAUSAL_LM", **options))
        for key, parameter in wrapped.named_parameters():
            if f".{name}." in key:
                scale = 0.2 * parameter.shape[-1] ** -0.5
                parameter.data = torch.randn(parameter.shape, generator=noise) * scale
    saved = tmp_path_factory.mktemp("adapters")
    wrapped.save_pretrained(saved, selected_adapters=list(OTHERS))
    folders |= {name: Path(saved) / name for name in OTHERS}
    served = Served(new_model)
    parts = {
        name: read_folder(folder, served.shape, torch.float32) for name, folder in folders.items()
    }
    yield House(served, wrapped.eval(), parts)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    names=st.lists(st.sampled_from([*SHIPPED, *OTHERS]), min_size=2, max_size=4, unique=True),
    weights=st.lists(st.decimals(-1, 2, places=1).map(float), min_size=4, max_size=4),
    method=st.sampled_from(("linear", "ties", "dare_linear", "dare_ties")),
    density=st.sampled_from((0.2, 0.5, 0.8, 1.0)),
    signs=st.sampled_from(("total", "frequency")),
    tokens=st.lists(st.integers(3, 900), min_size=TOKENS, max_size=TOKENS),
)
def test_a_batch_of_merged_adapters_and_their_parts(
    house: House,
    names: list[str],
    weights: list[float],
    method: str,
    density: float,
    signs: str,
    tokens: list[int],
) -> None:
    recipe = MergeRecipe(method, tuple(weights[: len(names)]), density, signs)
    merged = merge([house.parts[name] for name in names], recipe)
    house.add(names, recipe, merged)
    try:
        runs = {"merged": merged, **{name: house.parts[name] for name in names}}
        logits = house.served.logits([(tokens, one.lora) for one in runs.values()])
        for name, ours in zip(runs, logits, strict=True):
            theirs = house.by_peft(name, tokens)
            # They round in another order; sums of large updates leave an error of their own size.
            atol = 1e-4 * theirs.abs().max().item()
            torch.testing.assert_close(ours, theirs, rtol=0.0, atol=atol)
    finally:
        house.peft.delete_adapter("merged")


def test_merged_adapters_differ_from_their_parts(house: House) -> None:
    """Else the test above could not fail."""
    tokens = list(range(40, 40 + TOKENS))
    parts = [house.parts[name] for name in SHIPPED]
    merged = merge(parts, MergeRecipe("ties", (0.7, 0.3), 0.5, "total"))
    cases = [(tokens, one.lora) for one in (merged, *parts)]
    ours, *theirs = house.served.logits(cases)
    assert all((ours - one).abs().max() > 0.1 for one in theirs)
