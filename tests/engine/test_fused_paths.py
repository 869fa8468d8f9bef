"""Kernels in transformers' modules: models compute what they did, or are left as they were."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from lorax_spec.adapters.weights import OUTPUT
from lorax_spec.engine.adapted import AdaptedLayer, Holders, adapt_layers
from lorax_spec.engine.fused_paths import KernelRMSNorm, not_exact, use_kernels
from lorax_spec.engine.merged import ExactLinear, MergedLinear
from lorax_spec.kernels.triton.rope import rotate_and_write
from lorax_spec.kernels.triton.variant import INTERPRETED

#: Interpreted kernels take milliseconds for each of their programs.
pytestmark = pytest.mark.slow

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
ROWS = 6
LLAMAS = (LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config)
#: A block's path, and what stands after it in the list of what was replaced.
LLAMA_BLOCK = {
    "self_attn.q_proj": "product",
    "self_attn.k_proj": "product",
    "self_attn.v_proj": "product",
    "self_attn": "rotation and write",
    "mlp.gate_proj": "product",
    "mlp.up_proj": "product",
    "mlp": "gated product",
    "input_layernorm": "norm",
    "post_attention_layernorm": "norm",
    "": "sums with norms",
}


def new_model(kind: type[PretrainedConfig], **options: Any) -> PreTrainedModel:
    """Weights large enough for activations to bend, norms that are not all ones."""
    torch.manual_seed(0)
    config = kind(
        hidden_size=48,
        intermediate_size=72,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=80,
        initializer_range=0.15,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **options,
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 1.0, 0.2)
    return model.to(DEVICE)


@torch.no_grad()
def logits_of(model: PreTrainedModel, ids: torch.Tensor, **options: Any) -> torch.Tensor:
    found: torch.Tensor = model(ids, use_cache=False, **options).logits
    return found


def some_ids() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(80, (1, ROWS), generator=generator).to(DEVICE)


def assert_alike(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Two layers' roundings of numbers as large as the largest."""
    assert (actual - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", LLAMAS)
def test_models_like_llama_are_replaced_throughout(kind: type[PretrainedConfig]) -> None:
    model = new_model(kind)
    expected = logits_of(model, some_ids())
    replaced = use_kernels(model)
    for layer in range(2):
        path = f"model.layers.{layer}"
        for name, what in LLAMA_BLOCK.items():
            assert f"{path}.{name}".rstrip(".") + f": {what}" in replaced
    assert "model.norm: norm" in replaced
    assert_alike(logits_of(model, some_ids()), expected)
    assert model.config._attn_implementation == new_model(kind).config._attn_implementation


@pytest.mark.parametrize(
    ("kind", "left"),
    [
        (Gemma2Config, ("norm", "gated product", "sums with norms")),  # adds one; GELU; four norms
        (Olmo2Config, ("rotation and write", "sums with norms")),  # norms of all heads, and after
        (CohereConfig, ("norm", "rotation and write", "sums with norms")),  # other pairs; parallel
    ],
)
def test_other_models_are_replaced_in_part(
    kind: type[PretrainedConfig], left: tuple[str, ...]
) -> None:
    model = new_model(kind)
    expected = logits_of(model, some_ids())
    replaced = use_kernels(model)
    assert replaced and not [one for one in replaced if one.split(": ")[1] in left]
    assert_alike(logits_of(model, some_ids()), expected)


def test_nothing_is_replaced_twice() -> None:
    model = new_model(LlamaConfig)
    use_kernels(model)
    norms = [m for m in model.modules() if isinstance(m, KernelRMSNorm)]
    linears = [m for m in model.modules() if isinstance(m, MergedLinear)]
    use_kernels(model)
    assert norms == [m for m in model.modules() if isinstance(m, KernelRMSNorm)]
    assert linears == [m for m in model.modules() if isinstance(m, MergedLinear)]


@pytest.mark.parametrize("kind", [LlamaConfig, Qwen3Config])
def test_exact_models_have_the_same_bits_for_a_row_in_any_batch(
    kind: type[PretrainedConfig],
) -> None:
    model = new_model(kind)
    expected = logits_of(model, some_ids())
    use_kernels(model, exact=True)
    assert not_exact(model) == []
    assert_alike(logits_of(model, some_ids()), expected)
    # Attention is not looked at here: each row sees itself alone.
    alone = {"attention_mask": torch.eye(ROWS, device=DEVICE, dtype=torch.bool)[None, None]}
    together = logits_of(model, some_ids(), **alone)
    for count in (1, 2, 5):
        mask = {"attention_mask": alone["attention_mask"][..., :count, :count]}
        assert torch.equal(logits_of(model, some_ids()[:, :count], **mask), together[:, :count])


def test_what_is_not_exact_is_named() -> None:
    assert {name.rpartition(".")[2] for name in not_exact(new_model(LlamaConfig))} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        *("input_layernorm", "post_attention_layernorm", "norm", "lm_head"),
    }
    model = new_model(Gemma2Config)
    use_kernels(model, exact=True)
    assert {name.rpartition(".")[2].removesuffix("norm") for name in not_exact(model)} == {
        *("", "input_layer", "post_attention_layer", "pre_feedforward_layer"),
        "post_feedforward_layer",
    }


def test_weights_lie_in_memory_once() -> None:
    model = new_model(Qwen2Config)
    before = copy.deepcopy(model.state_dict())
    use_kernels(model, exact=True)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    attention = model.model.layers[0].self_attn
    assert isinstance(attention.q_proj, ExactLinear) and isinstance(model.lm_head, ExactLinear)
    storages = {getattr(attention, f"{n}_proj").weight.untyped_storage().data_ptr() for n in "qkv"}
    assert len(storages) == 1
    sizes = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()
    }
    assert sum(sizes.values()) == sum(p.numel() * 4 for p in before.values())


class Rows:
    """One row's adapter, which doubles some layers and leaves the rest."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.scales: dict[str, Any] = {}
        self.changed: frozenset[str] = frozenset()

    def adapt(self, name: str, base: nn.Module, y: torch.Tensor, x: torch.Tensor) -> None:
        if name in self.names:
            y.view(-1, y.shape[-1])[2:4] *= 2


def test_adapters_change_each_part_of_a_product() -> None:
    """Wrapped afterwards, layers are found by the same paths, and each is changed by itself."""
    path = "model.layers.0"
    names = {f"{path}.self_attn.k_proj", f"{path}.mlp.up_proj", f"{path}.self_attn.o_proj"}
    results = []
    for fused in (False, True):
        model = new_model(LlamaConfig)
        if fused:
            use_kernels(model)
        holders = Holders()
        head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
        adapt_layers(model, head, embedding, holders)
        wrapped = {m.name for m in model.modules() if isinstance(m, AdaptedLayer)}
        assert names <= wrapped and OUTPUT in wrapped
        base = logits_of(model, some_ids())
        holders.inner.lanes = (Rows(names),)  # type: ignore[assignment]
        results.append(logits_of(model, some_ids()))
        assert not torch.allclose(results[-1][:, 2:4], base[:, 2:4])
    assert_alike(results[1], results[0])


def paged(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    caches: dict[int, tuple[torch.Tensor, torch.Tensor]] | None = None,
    written: bool = False,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """As an engine's attention: over a cache that it writes unless that was done."""
    assert caches is not None and attention_mask is None
    keys, values = caches[int(module.layer_idx)]  # type: ignore[arg-type]
    rows = slice(2, 2 + query.shape[2])
    if not written:
        keys[:, rows], values[:, rows] = key[0], value[0]
    mixed = nn.functional.scaled_dot_product_attention(
        query, keys[None, :, rows], values[None, :, rows], is_causal=True, enable_gqa=True
    )
    return mixed.transpose(1, 2).contiguous(), None


@pytest.mark.parametrize("kind", [*LLAMAS, SmolLM3Config])
def test_passes_that_write_rotated_keys(kind: type[PretrainedConfig]) -> None:
    """SmolLM3 has layers without rotation: these stay, beside those that were replaced."""
    rotated_layers = 1 if kind is SmolLM3Config else 2
    options = {"no_rope_layers": [1, 0]} if kind is SmolLM3Config else {}
    model = new_model(kind, **options)
    expected = logits_of(model, some_ids())
    replaced = use_kernels(model)
    assert len([one for one in replaced if one.endswith("rotation and write")]) == rotated_layers
    AttentionInterface.register("paged_for_test", paged)
    model.set_attn_implementation("paged_for_test")
    slots = torch.arange(2, 2 + ROWS, device=DEVICE)
    caches = {
        layer: (torch.zeros(2, 9, 16, device=DEVICE), torch.zeros(2, 9, 16, device=DEVICE))
        for layer in range(2)
    }
    asked = []

    def write_rotated(layer: int, *tensors: torch.Tensor) -> torch.Tensor:
        asked.append(layer)
        return rotate_and_write(*tensors, *caches[layer], slots)

    found = logits_of(model, some_ids(), caches=caches, write_rotated=write_rotated)
    assert asked == list(range(rotated_layers))
    assert_alike(found, expected)
    assert_alike(logits_of(model, some_ids(), caches=caches), expected)
    assert asked == list(range(rotated_layers)), "without it, all is as ever"


@torch.no_grad()
def test_a_norm_made_ahead_is_for_that_very_tensor_and_once() -> None:
    norm = KernelRMSNorm(nn.Parameter(torch.ones(16, device=DEVICE)), 1e-6)
    x, residual = torch.randn(2, 3, 16, device=DEVICE)
    total = norm.sum_ahead(x, residual)
    assert torch.equal(total, x + residual)
    made = norm(total.clone())
    norm.sum_ahead(x, residual)
    assert not torch.equal(norm(residual), made), "another tensor came"
    total = norm.sum_ahead(x, residual)
    norm.weight.zero_()
    assert torch.equal(norm(total), made), "no weight is looked at any more"
    assert not norm(total).any()


class Halved(LlamaMLP):  # type: ignore[misc]
    """Looks like a gated layer, and is one but for a factor."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fed: torch.Tensor = super().forward(x)
        return fed / 2


class Centred(LlamaRMSNorm):  # type: ignore[misc]
    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = super().forward(hidden_states - hidden_states.mean(-1, True))
        return normed


def test_what_only_looks_alike_stays() -> None:
    model = new_model(LlamaConfig)
    block = model.model.layers[1]
    block.mlp.__class__ = Halved
    block.post_attention_layernorm.__class__ = Centred
    model.model.layers[0].mlp.act_fn = nn.GELU()
    expected = logits_of(model, some_ids())
    replaced = use_kernels(model)
    assert not [one for one in replaced if one.endswith("gated product")]
    assert "model.layers.1.post_attention_layernorm: norm" not in replaced
    assert "model.layers.1: sums with norms" not in replaced
    assert "model.layers.0: sums with norms" in replaced
    assert type(block.post_attention_layernorm) is Centred and "forward" not in vars(block.mlp)
    assert_alike(logits_of(model, some_ids()), expected)


def test_16_bit_models() -> None:
    model = new_model(LlamaConfig).to(torch.float16)
    expected = logits_of(model, some_ids()).float()
    replaced = use_kernels(model, exact=True)
    assert not_exact(model) == [] and "model.layers.1: sums with norms" in replaced
    found = logits_of(model, some_ids()).float()
    assert (found - expected).abs().max() <= 2**-7 * expected.abs().max()
