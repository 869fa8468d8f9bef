"""LoRAs and heads widened with their base say what they said, alone and in the engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from lorax_spec import embedded
from lorax_spec.bench.engine_side import Answer, drive
from lorax_spec.bench.widening.shape import Shape, Variant
from lorax_spec.bench.widening.widen import Plan, Widened, widen
from lorax_spec.engine.engine import Engine
from lorax_spec.engine.request import TokenRequest
from lorax_spec.errors import InvalidArgument
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.types import AdapterRef, Method, Parameters, Speculation
from tests.bench.widened import (
    difference,
    float64,
    hydra_logits,
    load,
    logits,
    medusa_logits,
)

pytestmark = pytest.mark.slow

BASE = embedded.path() / "base"
WIDE = Shape(1024, 7, 768, 8, 4, 128)


def random_heads(folder: Path, layout: dict[str, tuple[int, ...]], config: dict[str, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    folder.mkdir(parents=True)
    tensors = {
        name: 0.1 * torch.randn(shape, generator=generator) for name, shape in layout.items()
    }
    save_file(tensors, folder / "heads.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


def random_hydra(folder: Path) -> None:
    layout: dict[str, tuple[int, ...]] = {}
    for head in range(3):
        layout |= {
            f"hydra.{head}.in.weight": (40, (head + 2) * 256),
            f"hydra.{head}.in.bias": (40,),
            f"hydra.{head}.out.weight": (256, 40),
            f"hydra.{head}.out.bias": (256,),
        }
    random_heads(folder, layout, {"hydra_num_heads": 3, "hydra_inner_size": 40})


def random_deep_medusa(folder: Path) -> None:
    """Two blocks to a head, and an lm head."""
    layout: dict[str, tuple[int, ...]] = {"0.2.weight": (4096, 256)}
    for layer in range(2):
        layout |= {f"0.{layer}.linear.weight": (256, 256), f"0.{layer}.linear.bias": (256,)}
    random_heads(folder, layout, {"medusa_num_heads": 1, "medusa_num_layers": 2})


@pytest.fixture(scope="module")
def small_adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded ones, and two kinds of heads that are not among them."""
    folder = tmp_path_factory.mktemp("adapters")
    for name in embedded.adapter_names():
        shutil.copytree(embedded.path() / "adapters" / name, folder / name)
    random_hydra(folder / "random-hydra")
    random_deep_medusa(folder / "deep-medusa")
    (folder / "deep-medusa" / "calibration.json").write_text('{"measured": "once"}')
    return folder


@pytest.fixture(scope="module", params=Variant)
def wide(
    request: pytest.FixtureRequest, small_adapters: Path, tmp_path_factory: pytest.TempPathFactory
) -> Widened:
    """With one layer more."""
    output = tmp_path_factory.mktemp("wide") / "model"
    adapters = sorted(small_adapters.iterdir())
    return widen(Plan(BASE, output, WIDE, adapters, request.param, torch.float32))


@pytest.fixture(scope="module")
def small_model() -> Any:
    with float64():
        return load(BASE)


@pytest.fixture(scope="module")
def wide_model(wide: Widened) -> Any:
    with float64():
        return load(wide.base)


@pytest.fixture(scope="module")
def prompts() -> list[tuple[int, ...]]:
    tokenizer = TextTokenizer.load(BASE)
    items = embedded.workloads()
    return [
        tuple(tokenizer.encode(items[kind][0]["prompt"]))
        for kind in ("rename", "code", "tests", "prose")
    ]


@pytest.fixture(scope="module")
def ids(prompts: list[tuple[int, ...]]) -> torch.Tensor:
    return torch.tensor([prompts[1][:48]])


def test_float64_logits_are_equal(small_model: Any, wide_model: Any, ids: torch.Tensor) -> None:
    with float64():
        assert difference(logits(small_model, ids), logits(wide_model, ids)) < 1e-9


def test_bfloat16_logits_are_as_good_as_the_small_models(wide: Widened, ids: torch.Tensor) -> None:
    exact = logits(load(BASE, torch.float32), ids)
    noise = difference(exact, logits(load(BASE, torch.bfloat16), ids))
    assert difference(exact, logits(load(wide.base, torch.bfloat16), ids)) < 1.5 * noise


def test_greedy_answers_are_the_same(wide: Widened, prompts: list[tuple[int, ...]]) -> None:
    small, large = load(BASE, torch.float32), load(wide.base, torch.float32)
    for prompt in prompts[:2]:
        answers = [
            model.generate(torch.tensor([prompt[:96]]), max_new_tokens=64, min_new_tokens=64)
            for model in (small, large)
        ]
        assert torch.equal(*answers)


@pytest.mark.parametrize("name", ["pirate", "tests", "tests-medusa"])
def test_peft_loads_the_lora(
    name: str, wide: Widened, small_adapters: Path, ids: torch.Tensor
) -> None:
    with float64():
        plain = logits(load(BASE), ids)
        small, large = (
            logits(PeftModel.from_pretrained(load(base), folder / name).double(), ids)
            for base, folder in ((BASE, small_adapters), (wide.base, wide.adapters))
        )
    assert difference(small, large) < 1e-9
    assert difference(small, plain) > 0.01


def test_layers_beyond_have_updates_as_well(wide: Widened, small_adapters: Path) -> None:
    """As many bytes to a layer, so that an adapter costs what one of that size does."""
    tensors = load_file(wide.adapters / "pirate" / "adapter_model.safetensors")
    first, beyond = (
        {
            name.replace(f"layers.{layer}.", ""): tensor.shape
            for name, tensor in tensors.items()
            if f"layers.{layer}." in name
        }
        for layer in (0, 6)
    )
    assert first == beyond and len(first) == 14


@pytest.mark.parametrize(
    ("name", "heads_logits"),
    [
        ("medusa", medusa_logits),
        ("medusa-v1", medusa_logits),
        ("tests-medusa", medusa_logits),
        ("deep-medusa", medusa_logits),
        ("random-hydra", hydra_logits),
    ],
)
def test_heads_say_the_same(
    name: str,
    heads_logits: Callable[..., list[torch.Tensor]],
    wide: Widened,
    small_adapters: Path,
    small_model: Any,
    wide_model: Any,
    ids: torch.Tensor,
) -> None:
    def heads(folder: Path) -> dict[str, torch.Tensor]:
        files = [f for f in (folder / name).glob("*.safetensors") if "adapter_model" not in f.name]
        return load_file(files[0])

    with float64():
        pairs = zip(
            heads_logits(small_model, heads(small_adapters), ids),
            heads_logits(wide_model, heads(wide.adapters), ids),
            strict=True,
        )
        assert all(difference(small, large) < 1e-9 for small, large in pairs)


def test_configs_fit_and_the_rest_is_copied(wide: Widened) -> None:
    hydra = json.loads((wide.adapters / "random-hydra" / "config.json").read_text())
    assert hydra["hydra_inner_size"] == 40
    for name in ("adapter_config.json", "config.json"):
        config = json.loads((wide.adapters / "tests-medusa" / name).read_text())
        assert config["base_model_name_or_path"] == "../../base"
    calibration = (wide.adapters / "deep-medusa" / "calibration.json").read_text()
    assert calibration == '{"measured": "once"}'


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    def refusal(name: str, *shape: int) -> str:
        folder = tmp_path / "adapter"
        shutil.rmtree(folder, ignore_errors=True)
        random_heads(folder, {name: shape}, {})
        with pytest.raises(InvalidArgument) as error:
            widen(Plan(BASE, tmp_path / "wide", WIDE, [folder]))
        assert not (tmp_path / "wide").exists()
        return error.value.message

    layer = "base_model.model.model.layers"
    assert "0.0.linear.weight: it has 255" in refusal("0.0.linear.weight", 256, 255)
    assert "it has 700" in refusal(f"{layer}.0.mlp.down_proj.lora_A.weight", 8, 700)
    assert "it has 32" in refusal(f"{layer}.0.self_attn.q_proj.lora_B.weight", 32, 8)
    assert "none that can" in refusal(f"{layer}.6.mlp.down_proj.lora_A.weight", 8, 704)
    assert "none that can" in refusal("base_model.model.lm_head.lora_A.weight", 8, 256)


@pytest.fixture(scope="module")
def small_engine(small_adapters: Path) -> Iterator[Engine]:
    with Engine(dtype="float32", max_total_tokens=512, adapter_root=small_adapters) as engine:
        yield engine


def answers(engine: Engine, prompts: list[tuple[int, ...]]) -> list[Answer]:
    """All at once: without an adapter, with a LoRA, with heads, and with both in one adapter."""
    numbers = count(1)
    return drive(
        engine.core,
        [
            TokenRequest(
                next(numbers),
                prompt,
                Parameters(max_new_tokens=40, ignore_eos_token=True),
                Speculation(Method.MEDUSA, 6) if "medusa" in adapter else Speculation(Method.NONE),
                AdapterRef(adapter) if adapter else None,
                None,
            )
            for adapter in ("", "pirate", "medusa", "tests-medusa")
            for prompt in prompts
        ],
    )


def test_the_engine_drafts_and_accepts_the_same(
    wide: Widened, small_engine: Engine, prompts: list[tuple[int, ...]]
) -> None:
    prompts = [prompts[0][:96], prompts[2][:96]]
    small = answers(small_engine, prompts)
    with Engine(
        wide.base, dtype="float32", max_total_tokens=512, adapter_root=wide.adapters
    ) as engine:
        large = answers(engine, prompts)
    assert [one.tokens for one in small] == [one.tokens for one in large]
    assert [one.speculation for one in small] == [one.speculation for one in large]
    assert all(len(one.tokens) == 40 for one in small)
    assert [one.speculation.accepted_tokens > 10 for one in small] == [False] * 4 + [True] * 4
