"""Merged adapters are peft's, number by number; what peft leaves open is as the page says."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.merge_utils import magnitude_based_pruning

from lorax_spec.adapters import merging
from lorax_spec.adapters.folder import read_folder
from lorax_spec.adapters.merging import MergeRecipe, merge
from lorax_spec.adapters.slab import allocate, layout
from lorax_spec.adapters.weights import LORA_A, LORA_B, AdapterWeights, assemble
from lorax_spec.errors import AdapterMismatch
from tests.adapters.writers import (
    LINEARS,
    SHAPE,
    hydra_config,
    hydra_tensors,
    lora_config,
    lora_tensors,
    write_hydra,
    write_lora,
    write_medusa,
)

TARGETS = ("q_proj", "v_proj", "down_proj")
METHODS = ("linear", "ties", "dare_linear", "dare_ties")


@dataclasses.dataclass(frozen=True)
class Part:
    """A random adapter; equal parts are equal adapters."""

    seed: int
    rank: int
    alpha: int
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def model() -> torch.nn.Module:
    """Linear layers of two decoder layers, small enough to be made hundreds of times."""
    root = torch.nn.Module()
    for path, (out_features, in_features) in LINEARS.items():
        parent = root
        *parents, name = path.split(".")
        for step in parents:
            if not hasattr(parent, step):
                parent.add_module(step, torch.nn.Module())
            parent = getattr(parent, step)
        parent.add_module(name, torch.nn.Linear(in_features, out_features, bias=False))
    return root


def with_parts(parts: Sequence[Part]) -> PeftModel:
    """A model that holds the parts as peft adapters "0", "1", ..."""
    wrapped: Any = None
    for number, part in enumerate(parts):
        config = LoraConfig(r=part.rank, lora_alpha=part.alpha, target_modules=list(part.targets))
        if wrapped is None:
            wrapped = get_peft_model(model(), config, adapter_name="0")
        else:
            wrapped.add_adapter(str(number), config)
        noise = torch.Generator().manual_seed(part.seed)
        for _, matrices in matrices_of(wrapped, str(number)):
            for matrix in matrices:
                matrix.data = torch.randn(matrix.shape, generator=noise) * 0.1
    return wrapped


def matrices_of(wrapped: PeftModel, name: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """A and B by module path, sorted by it."""
    for path, layer in sorted(wrapped.base_model.model.named_modules()):
        if name in getattr(layer, "lora_A", {}):
            yield path, (layer.lora_A[name].weight, layer.lora_B[name].weight)


def weights_of(wrapped: PeftModel, parts: Sequence[Part]) -> list[AdapterWeights]:
    """The parts as they are read from what peft writes."""
    return [weights_of_one(wrapped, str(number), part) for number, part in enumerate(parts)]


def weights_of_one(wrapped: PeftModel, name: str, part: Part) -> AdapterWeights:
    tensors = {
        path + end: matrix.data
        for path, matrices in matrices_of(wrapped, name)
        for end, matrix in zip((LORA_A, LORA_B), matrices, strict=True)
    }
    pieces, numel = layout({end: tuple(tensor.shape) for end, tensor in tensors.items()})
    slab = allocate(pieces, numel, torch.float32)
    for end, tensor in tensors.items():
        slab[end].copy_(tensor)
    return assemble(slab, {path: part.scale for path, _ in matrices_of(wrapped, name)})


def assert_equal(merged: AdapterWeights, wrapped: PeftModel, name: str) -> None:
    assert merged.lora is not None and not merged.lora.changes
    expected = dict(matrices_of(wrapped, name))
    assert set(merged.lora.modules) == set(expected)
    for path, module in merged.lora.modules.items():
        a, b = expected[path]
        torch.testing.assert_close(module.scale * module.b @ module.a, b.data @ a.data)
        torch.testing.assert_close(module.a, a.data, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(module.b, b.data, rtol=1e-6, atol=1e-7)


def add_weighted(wrapped: PeftModel, parts: Sequence[Part], recipe: MergeRecipe) -> None:
    names = [str(number) for number in range(len(parts))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of densities of 1
        wrapped.add_weighted_adapter(
            names,
            list(recipe.weights),
            "merged",
            recipe.method,
            density=recipe.density,
            majority_sign_method=recipe.majority_sign_method,
        )


ranks = st.integers(1, 6)
targets = st.lists(st.sampled_from(TARGETS), min_size=1, unique=True).map(tuple)
weights = st.decimals(-2, 2, places=2).map(float)
densities = st.decimals("0.05", 1, places=2).map(float)


@st.composite
def cases(draw: st.DrawFn, methods: Sequence[str], rank: Any = None) -> tuple[Any, MergeRecipe]:
    """Parts, of one rank unless ``rank`` is a strategy of their ranks, and a recipe."""
    same = st.just(draw(ranks)) if rank is None else rank
    one = st.builds(Part, st.integers(0, 9), same, st.integers(1, 16), targets)
    parts = draw(st.lists(one, min_size=1, max_size=4))
    recipe = MergeRecipe(
        draw(st.sampled_from(methods)),
        tuple(draw(weights) for _ in parts),
        draw(densities),
        draw(st.sampled_from(("total", "frequency"))),
    )
    return parts, recipe


@settings(max_examples=40, deadline=None)
@given(cases(("linear", "ties")))
def test_equal_ranks_are_merged_as_peft_does(case: tuple[list[Part], MergeRecipe]) -> None:
    parts, recipe = case
    wrapped = with_parts(parts)
    merged = merge(weights_of(wrapped, parts), recipe)
    add_weighted(wrapped, parts, recipe)
    assert_equal(merged, wrapped, "merged")


@settings(max_examples=30, deadline=None)
@given(cases(("dare_linear", "dare_ties")))
def test_dropping_is_pefts_but_for_the_seed(case: tuple[list[Part], MergeRecipe]) -> None:
    """peft drops by torch's own generator; given our seed, and modules in our order, as we do."""
    parts, recipe = case
    wrapped = with_parts(parts)
    weights = weights_of(wrapped, parts)
    merged = merge(weights, recipe)
    method = "linear" if len(parts) == 1 else recipe.method
    add_weighted(wrapped, parts, dataclasses.replace(recipe, method="linear"))
    names = [str(number) for number in range(len(parts))]
    layers = dict(wrapped.base_model.model.named_modules())
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(merging._seed(weights, recipe))
        for path, (a, b) in matrices_of(wrapped, "merged"):
            a.data, b.data = wrapped.base_model._generalized_task_arithmetic_weighted_adapter(
                method,
                names,
                list(recipe.weights),
                layers[path],
                recipe.density,
                recipe.majority_sign_method,
            )
    assert_equal(merged, wrapped, "merged")


@settings(max_examples=40, deadline=None)
@given(cases(("linear", "ties"), rank=ranks))
def test_other_ranks_are_filled_up_with_zeros(case: tuple[list[Part], MergeRecipe]) -> None:
    """As peft merges adapters of the largest rank that hold the sparse numbers and zeros else."""
    parts, recipe = case
    largest = max(part.rank for part in parts)
    wrapped = with_parts(parts)
    merged = merge(weights_of(wrapped, parts), recipe)
    wide = [dataclasses.replace(part, rank=largest, alpha=part.alpha * largest) for part in parts]
    filled = with_parts(wide)
    for number, part in enumerate(parts):
        narrow = dict(matrices_of(wrapped, str(number)))
        for path, (a, b) in matrices_of(filled, str(number)):
            a.data.zero_()
            b.data.zero_()
            small = [matrix.data for matrix in narrow[path]]
            if recipe.method == "ties" and recipe.density < 1 and len(parts) > 1:
                small = [magnitude_based_pruning(matrix, recipe.density) for matrix in small]
            a.data[: part.rank] = small[0]
            b.data[:, : part.rank] = small[1]
        for layer in filled.base_model.model.modules():
            if str(number) in getattr(layer, "lora_A", {}):
                layer.scaling[str(number)] = part.scale
    add_weighted(filled, wide, dataclasses.replace(recipe, density=1.0))
    assert_equal_up_to_rank(merged, filled)


def assert_equal_up_to_rank(merged: AdapterWeights, wrapped: PeftModel) -> None:
    """A module is as wide as the widest of the parts that have it, which may not be the widest."""
    assert merged.lora is not None
    for path, (a, b) in matrices_of(wrapped, "merged"):
        module = merged.lora.modules[path]
        torch.testing.assert_close(module.a, a.data[: module.rank], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(module.b, b.data[:, : module.rank], rtol=1e-6, atol=1e-7)
        assert not a.data[module.rank :].any() and not b.data[:, module.rank :].any()


@pytest.fixture
def two(tmp_path: Path) -> list[AdapterWeights]:
    folders = [
        write_lora(tmp_path / str(seed), lora_config(), lora_tensors(seed=seed)) for seed in (1, 2)
    ]
    return [read_folder(folder, SHAPE, torch.float32) for folder in folders]


@pytest.mark.parametrize("method", METHODS)
def test_equal_recipes_give_equal_bits_whatever_torch_draws(
    two: list[AdapterWeights], method: str
) -> None:
    recipe = MergeRecipe(method, (0.7, 0.3), 0.4, "total")
    torch.manual_seed(1)
    first = merge(two, recipe)
    torch.manual_seed(2)
    drawn = torch.get_rng_state()
    second = merge(two, recipe)
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.slab.data, second.slab.data)
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("method", METHODS)
def test_every_part_of_a_recipe_counts(two: list[AdapterWeights], method: str) -> None:
    recipe = MergeRecipe(method, (0.7, 0.3), 0.4, "total")
    known = {merge(two, recipe).fingerprint, merge(two[::-1], recipe).fingerprint}
    assert len(known) == 2
    changed = [dataclasses.replace(recipe, weights=(0.7, -0.3))]
    if method != "linear":
        changed.append(dataclasses.replace(recipe, density=0.8))
    for other in changed:
        assert merge(two, other).fingerprint not in known


def test_what_dare_drops_depends_on_the_recipe(two: list[AdapterWeights]) -> None:
    """Else two merges of one density would drop the same numbers."""
    dropped = []
    for weights in ((1.0, 0.5), (1.0, 0.25)):
        lora = merge(two, MergeRecipe("dare_linear", weights, 0.5, "total")).lora
        assert lora is not None
        dropped.append(torch.cat([module.a.flatten() for module in lora.modules.values()]) == 0)
    assert 0.15 < dropped[0].float().mean() < 0.35
    assert not torch.equal(*dropped)


def test_the_dtype_is_kept(tmp_path: Path) -> None:
    folder = write_lora(tmp_path / "a", lora_config(), lora_tensors())
    part = read_folder(folder, SHAPE, torch.bfloat16)
    merged = merge([part, part], MergeRecipe("ties", (1.0, 1.0), 0.5, "total"))
    assert merged.slab.data.dtype is torch.bfloat16 and merged.nbytes == part.nbytes


def test_heads_of_one_part_stay(tmp_path: Path, two: list[AdapterWeights]) -> None:
    folder = write_hydra(tmp_path / "joint", hydra_config(), hydra_tensors())
    write_lora(folder, lora_config(), lora_tensors(seed=3))
    joint = read_folder(folder, SHAPE, torch.float32)
    merged = merge([two[0], joint], MergeRecipe("linear", (1.0, 1.0), 1.0, "total"))
    assert merged.kind == "lora+hydra"
    assert merged.hydra is not None and joint.hydra is not None
    pairs = zip(merged.hydra.input_weight, joint.hydra.input_weight, strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    with pytest.raises(AdapterMismatch, match="heads"):
        merge([joint, joint], MergeRecipe("linear", (1.0, 1.0), 1.0, "total"))


def test_what_cannot_be_merged_says_why(tmp_path: Path, two: list[AdapterWeights]) -> None:
    recipe = MergeRecipe("linear", (1.0, 1.0), 1.0, "total")
    heads = read_folder(write_medusa(tmp_path / "heads"), SHAPE, torch.float32)
    with pytest.raises(AdapterMismatch, match="adapter 2 of 2 to merge has no LoRA"):
        merge([two[0], heads], recipe)
    with pytest.raises(AdapterMismatch, match="not finite"):
        merge(two, dataclasses.replace(recipe, weights=(1e300, 1.0)))
    with pytest.raises(AdapterMismatch, match="not finite"):
        halves = [read_folder(tmp_path / str(seed), SHAPE, torch.float16) for seed in (1, 2)]
        merge(halves, dataclasses.replace(recipe, weights=(1e12, 1.0)))
