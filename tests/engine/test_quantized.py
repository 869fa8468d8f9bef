"""Quantised models serve base, LoRA and Medusa as transformers and peft do; requests stay apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from lorax_spec import embedded
from lorax_spec.adapters.linears import dequantized, is_linear, is_quantized_linear, parameters_of
from lorax_spec.adapters.shape import shape_of
from lorax_spec.engine import quantized
from lorax_spec.engine.adapted import AdaptedLayer
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.model import LanguageModel
from lorax_spec.engine.plain_ops import plain_ops
from lorax_spec.engine.quantized import checkpoint_method, quantization_config, read_quantized
from lorax_spec.errors import InvalidArgument
from lorax_spec.types import Method
from tests.conformance.running import Outcome, run
from tests.engine.conftest import NewRequest, load_core

CPU = torch.device("cpu")
BASE = embedded.path() / "base"
#: bitsandbytes rounds activations to int8 in every layer: a rounding of float32 before can move one
#: by 1/127 of the largest of its row.  Its 4-bit products are bfloat16 on processors that have it.
TOLERANCES = {"int8": 1e-4, "bitsandbytes": 0.2, "bitsandbytes-nf4": 0.05}


def package_of(name: str) -> str:
    return "bitsandbytes" if name.startswith("bitsandbytes") else "torchao"


def served(*names: str) -> list[Any]:
    """Parameters; those whose package is not here are skipped."""
    return [
        pytest.param(
            name,
            marks=pytest.mark.skipif(
                find_spec(package_of(name)) is None,
                reason=f"{package_of(name)} is not installed: pip install 'lorax-spec[quantize]'",
            ),
        )
        for name in names
    ]


METHODS = served("int8", "bitsandbytes", "bitsandbytes-nf4")


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def core(method: str) -> Iterator[EngineCore]:
    """Exact to the bit: the self-check must find that the method allows it."""
    core = load_core(quantize=method)
    yield core
    core.check_integrity()
    core.close()


def read(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return read_quantized(BASE, name, dtype, lambda _: torch.float32, CPU)


def by_transformers(name: str) -> PreTrainedModel:
    """As a user of transformers would; but for outliers, which let rows change one another."""
    config = quantization_config(name, torch.float32, CPU)
    config.llm_int8_threshold = 0.0
    return AutoModelForCausalLM.from_pretrained(
        BASE, dtype=torch.float32, quantization_config=config, device_map={"": CPU}
    )


@torch.inference_mode()
def logprobs(model: nn.Module, prompt: tuple[int, ...], ids: list[int]) -> torch.Tensor:
    """float32, of ``ids`` after ``prompt``."""
    logits = model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    rows = torch.log_softmax(logits.float(), -1)
    return rows.gather(1, torch.tensor(ids)[:, None])[:, 0]


def assert_same(outcome: Outcome, model: nn.Module, prompt: tuple[int, ...], bound: float) -> None:
    expected = logprobs(model, prompt, outcome.ids)
    actual = torch.tensor([token.logprob for token in outcome.tokens])
    torch.testing.assert_close(actual, expected, rtol=0, atol=bound)


def test_base_and_lora_are_those_of_transformers_and_peft(
    core: EngineCore,
    method: str,
    prompts: dict[str, list[tuple[int, ...]]],
    new_request: NewRequest,
) -> None:
    """In one batch, by the log-probabilities of what was chosen."""
    some = [prompts["prose"][0][:60], prompts["code"][0][:60]]
    requests = [new_request(p, adapter=a) for p in some for a in (None, "pirate", "tests")]
    outcomes = run(core, requests)
    model = by_transformers(method)
    for outcome, prompt in zip(outcomes[::3], some, strict=True):
        assert_same(outcome, model, prompt, TOLERANCES[method])
    for place, name in ((1, "pirate"), (2, "tests")):
        adapted = PeftModel.from_pretrained(
            by_transformers(method), str(embedded.path() / "adapters" / name)
        ).eval()
        for outcome, prompt in zip(outcomes[place::3], some, strict=True):
            assert_same(outcome, adapted, prompt, TOLERANCES[method])
            without = logprobs(model, prompt, outcome.ids) - logprobs(adapted, prompt, outcome.ids)
            assert without.abs().max() > 2 * TOLERANCES[method]


def test_speculation_changes_no_token_and_pays(
    core: EngineCore, prompts: dict[str, list[tuple[int, ...]]], new_request: NewRequest
) -> None:
    """Nor a bit of a log-probability; with heads, LoRA and heads of a LoRA together."""
    prompt = prompts["tests"][0]
    ways: list[dict[str, str]] = [
        {"medusa": "medusa"},
        {"adapter": "pirate", "medusa": "pirate-medusa"},
        {"adapter": "tests", "medusa": "medusa"},
    ]
    plain = run(core, [new_request(prompt, 40, adapter=way.get("adapter")) for way in ways])
    drafted = run(core, [new_request(prompt, 40, Method.MEDUSA, 6, **way) for way in ways])
    for one, other in zip(plain, drafted, strict=True):
        assert one.tokens and [(t.id, t.logprob) for t in one.tokens] == [
            (t.id, t.logprob) for t in other.tokens
        ]
    assert sum(one.speculation.accepted_tokens for one in drafted) > 10


@pytest.mark.parametrize("name", served("int8"))
def test_dora_builds_on_the_weight_that_layers_compute_with(
    name: str, tmp_path: Path, prompts: dict[str, list[tuple[int, ...]]], new_request: NewRequest
) -> None:
    """Against peft only for int8: of 4-bit weights that bitsandbytes repacked for a CPU it takes
    the wrong norms, and 8-bit ones it cannot read once they were used."""
    torch.manual_seed(0)
    config = LoraConfig(
        r=4, use_dora=True, init_lora_weights=False, target_modules=["q_proj", "down_proj"]
    )
    get_peft_model(by_transformers(name), config).save_pretrained(tmp_path / "dora")
    core = EngineCore.load(
        EngineConfig(
            str(BASE),
            dtype="float32",
            quantize=name,
            max_total_tokens=64,
            adapter_roots={"": tmp_path},
        )
    )
    prompt = prompts["prose"][0][:30]
    (outcome,) = run(core, [new_request(prompt, 10, adapter="dora")])
    core.close()
    adapted = PeftModel.from_pretrained(by_transformers(name), str(tmp_path / "dora")).eval()
    assert_same(outcome, adapted, prompt, TOLERANCES[name])


def test_layers_are_quantised_and_heads_are_not(core: EngineCore) -> None:
    model = core._model
    head = model.model.get_output_embeddings()
    inner = [m for m in model.model.modules() if type(m) is AdaptedLayer]
    kinds = {one.name.rpartition(".")[2]: is_quantized_linear(one.base) for one in inner}
    assert kinds.pop("q_proj") and kinds.pop("down_proj") and kinds.pop("gate_proj")
    assert head is not None and not is_quantized_linear(head.base) and model.dtype == torch.float32


@pytest.mark.parametrize("name", served("int8", "bitsandbytes", "bitsandbytes-nf4"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sizes_and_weights_are_the_true_ones(name: str, dtype: torch.dtype) -> None:
    """Packed weights have other shapes; DoRA needs what they stand for."""
    plain = AutoModelForCausalLM.from_pretrained(BASE, dtype=dtype)
    model = read(name, dtype)
    expected, actual = shape_of(plain, "m"), shape_of(model, "m")
    assert actual == expected
    assert actual.parameters.keys() == expected.parameters.keys()
    paths = ("0.self_attn.k_proj", "1.mlp.down_proj", "1.mlp.up_proj")
    for path in (f"model.layers.{one}.weight" for one in paths):
        own, weight = expected.parameters[path].float(), actual.parameters[path]
        assert weight.dtype == dtype and weight.shape == own.shape
        error = (weight.float() - own).norm() / own.norm()
        assert 0 < error < (0.15 if name == "bitsandbytes-nf4" else 0.02)


@pytest.mark.parametrize("name", served("int8"))
def test_dtype_and_default_of_determinism(name: str) -> None:
    core = EngineCore.load(
        EngineConfig(str(BASE), quantize=name, max_total_tokens=64, dtype="bfloat16")
    )
    assert core.info.dtype == "bfloat16" and not core.info.deterministic
    core.close()


@pytest.mark.parametrize("name", served("bitsandbytes"))
def test_a_folder_that_lies_quantised_just_loads(
    name: str, tmp_path: Path, prompts: dict[str, list[tuple[int, ...]]]
) -> None:
    """Outliers of one row are no matter for the others, though the folder says so."""
    model = read(name)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    again = read_quantized(tmp_path, None, None, lambda _: torch.float32, CPU)
    prompt = prompts["prose"][0][:40]
    ids = list(prompt[20:])
    assert torch.equal(logprobs(again, prompt[:20], ids), logprobs(model, prompt[:20], ids))
    layer = again.get_submodule("model.layers.0.mlp.up_proj")
    x = torch.randn(4, layer.in_features)  # type: ignore[arg-type]
    beside = x.clone()
    beside[3, 5] = 20
    assert torch.equal(layer(x)[:3], layer(beside)[:3])
    with pytest.raises(InvalidArgument, match="quantised already, by bitsandbytes"):
        read_quantized(tmp_path, "int8", None, lambda _: torch.float32, CPU)


def test_what_cannot_be_met_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(name: str, dtype: torch.dtype = torch.float32) -> str:
        with pytest.raises(InvalidArgument) as raised:
            quantization_config(name, dtype, CPU)
        assert raised.value.field == "quantize"
        return raised.value.message

    assert "'exl2' is none of bitsandbytes, " in refusal("exl2")
    monkeypatch.setattr(quantized, "find_spec", lambda name: name == "accelerate" or None)
    assert "needs bitsandbytes: pip install 'lorax-spec[quantize]'" in refusal("bitsandbytes-nf4")
    assert "needs torchao: pip install" in refusal("int8")
    monkeypatch.setattr(quantized, "find_spec", lambda name: True)
    assert "fp8 needs a CUDA device, and this is cpu" in refusal("fp8")
    assert "int4 needs a CUDA device, and this is cpu" in refusal("int4", torch.bfloat16)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    with pytest.raises(InvalidArgument, match=r"capability 8\.9 or later"):
        quantization_config("fp8", torch.bfloat16, torch.device("cuda"))
    with pytest.raises(InvalidArgument, match="int4 computes in bfloat16, not in float32"):
        quantization_config("int4", torch.float32, torch.device("cuda"))


class PackedLayer(nn.Module):
    """As GPTQ's: no nn.Linear, weights in whole numbers, the bias a buffer."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("qweight", (linear.weight / scale).round().to(torch.int8).T)
        self.register_buffer("scales", scale)
        self.register_buffer("bias", linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = (x @ self.qweight.to(x.dtype)) * self.scales[:, 0] + self.bias  # type: ignore[index]
        return y


class ScaledTogether(PackedLayer):
    """Rounds activations by the largest of all rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.abs().max() / 127
        return super().forward((x / scale).round() * scale)


def packed_model(kind: type[PackedLayer]) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        attention_bias=True,
    )
    model = LlamaForCausalLM(config).eval()
    attention: Any = model.model.layers[0].self_attn
    nn.init.normal_(attention.q_proj.bias, std=3)
    attention.q_proj = kind(attention.q_proj)
    return model


def test_packed_layers_of_other_classes_are_adapted_and_known() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(16, 16)
    assert is_linear(PackedLayer(plain)) and not is_linear(nn.Embedding(4, 4))
    assert not is_quantized_linear(plain)
    model = packed_model(PackedLayer)
    path = "model.layers.0.self_attn.q_proj"
    layer: Any = model.get_submodule(path)
    assert shape_of(model, "m").linears[path] == (16, 16)
    parameters = parameters_of(model)
    assert f"{path}.bias" in parameters and f"{path}.weight" in parameters
    assert set(parameters) == set(LlamaForCausalLM(model.config).state_dict())
    expected = layer.qweight.T * layer.scales
    torch.testing.assert_close(parameters[f"{path}.weight"], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        dequantized(layer.bfloat16(), expected.bfloat16()).float(), expected, rtol=2**-6, atol=1e-3
    )


def test_packed_layers_are_wrapped() -> None:
    model = LanguageModel(packed_model(PackedLayer), plain_ops(exact=False))
    assert "model.layers.0.self_attn.q_proj" in model.adapted_paths


def test_a_model_whose_requests_change_one_another_is_refused() -> None:
    quantized._keep_rows_apart(packed_model(PackedLayer))
    with pytest.raises(InvalidArgument, match="q_proj is quantised in a way that lets one request"):
        quantized._keep_rows_apart(packed_model(ScaledTogether))


def test_what_a_folder_says_of_itself(tmp_path: Path) -> None:
    assert checkpoint_method(BASE) is None and checkpoint_method(tmp_path) is None
    (tmp_path / "config.json").write_text('{"quantization_config": {"quant_method": "gptq"}}')
    assert checkpoint_method(tmp_path) == "gptq"
