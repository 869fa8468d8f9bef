"""A widened model is the small one at another cost: in any shape, in folders others can read."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from lorax_spec import embedded
from lorax_spec.bench.cli import app
from lorax_spec.bench.widening.shape import (
    PRESETS,
    Preset,
    Shape,
    Variant,
    require_exact,
    roundings,
)
from lorax_spec.bench.widening.widen import Plan, widen
from lorax_spec.errors import InvalidArgument
from tests.bench.widened import difference, float64, load, logits

SMALL = Shape(256, 6, 704, 8, 4, 32)
VOCABULARY = 97

variants = st.sampled_from(Variant)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[Shape, Shape]:
    """A tiny shape and a wider one."""
    kv, group, dim = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([4, 8]))
    hidden = kv * group * draw(st.integers(1, 2)) * 4
    small = Shape(hidden, draw(st.integers(1, 2)), draw(st.integers(3, 9)), kv * group, kv, dim)
    wide_group = draw(st.integers(1, 4))
    copies = -(-group // wide_group)
    wide_kv = kv * copies + draw(st.integers(0, 2))
    heads = wide_kv * wide_group
    factor = heads // math.gcd(heads, hidden)
    wide = Shape(
        hidden * factor * draw(st.integers(1, 2)),
        small.layers + draw(st.integers(0, 2)),
        small.intermediate_size + draw(st.integers(0, 9)),
        heads,
        wide_kv,
        dim * draw(st.integers(1, 4)),
    )
    assume(wide.hidden_size <= 600)
    return small, wide


def random_llama(shape: Shape, tied: bool, biased: bool) -> LlamaForCausalLM:
    """No weight is small enough to be forgotten unnoticed, biases and norms included."""
    config = LlamaConfig(
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        intermediate_size=shape.intermediate_size,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        vocab_size=VOCABULARY,
        rms_norm_eps=1e-2,
        tie_word_embeddings=tied,
        attention_bias=biased,
        mlp_bias=biased,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config).double()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.4)
    return model.eval()


@settings(max_examples=25)
@given(shapes(), variants, st.booleans(), st.booleans(), st.integers(0, 999))
def test_every_shape_keeps_the_logits(
    tmp_path_factory: pytest.TempPathFactory,
    pair: tuple[Shape, Shape],
    variant: Variant,
    tied: bool,
    biased: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    folder = tmp_path_factory.mktemp("shape")
    small = random_llama(pair[0], tied, biased)
    small.save_pretrained(folder / "small")
    made = widen(
        Plan(folder / "small", folder / "wide", pair[1], (), variant, torch.float64, seed=seed)
    )
    ids = torch.randint(VOCABULARY, (2, 12))
    with float64():
        wide = load(made.base)
        assert difference(logits(small, ids), logits(wide, ids)) < 1e-9
    if not biased:
        assert made.parameters == wide.num_parameters()


@pytest.mark.parametrize("preset", Preset)
@pytest.mark.parametrize("variant", Variant)
def test_presets_are_exact_for_the_embedded_base(preset: Preset, variant: Variant) -> None:
    require_exact(SMALL, PRESETS[preset], variant)
    assert list(roundings(SMALL, PRESETS[preset], variant)) == []
    unit = {"m": 1e6, "b": 1e9}[preset[-1]]
    size = PRESETS[preset].parameters(4096, tied=True) / unit
    assert size == pytest.approx(float(preset[:-1]), rel=0.13)


@pytest.mark.parametrize(
    ("change", "variant", "named"),
    [
        ({"hidden_size": 128}, Variant.ZERO, "hidden size must be at least 256"),
        ({"hidden_size": 640}, Variant.TILE, "hidden size must be a multiple of 256"),
        ({"layers": 5}, Variant.ZERO, "layers must be at least 6"),
        ({"intermediate_size": 512}, Variant.ZERO, "intermediate size must be at least 704"),
        ({"head_dim": 48}, Variant.ZERO, "head dim must be a multiple of 32"),
        ({"heads": 6}, Variant.ZERO, "a multiple of kv heads"),
        ({"kv_heads": 2, "heads": 4}, Variant.ZERO, "kv heads must be at least 4, not 2"),
        ({"kv_heads": 4, "heads": 4}, Variant.ZERO, "kv heads must be at least 8, not 4"),
        ({"kv_heads": 4, "heads": 12}, Variant.ZERO, "must be a multiple of heads 12"),
    ],
)
def test_a_shape_that_cannot_be_exact_is_refused(
    change: dict[str, int], variant: Variant, named: str
) -> None:
    with pytest.raises(InvalidArgument, match=named):
        require_exact(SMALL, replace(PRESETS[Preset.M100], **change), variant)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidArgument, match=r"layers must.*head dim must") as error:
        require_exact(SMALL, replace(SMALL, layers=2, head_dim=33), Variant.ZERO)
    assert error.value.field == "shape"


@pytest.mark.parametrize(
    ("change", "variant", "roots"),
    [
        ({}, Variant.ZERO, 0),
        ({"hidden_size": 4096, "head_dim": 128}, Variant.ZERO, 0),
        ({"hidden_size": 512}, Variant.ZERO, 1),
        ({"hidden_size": 512}, Variant.TILE, 0),
        ({"hidden_size": 768, "head_dim": 64}, Variant.ZERO, 2),
    ],
)
def test_roots_that_are_no_powers_of_two_are_named(
    change: dict[str, int], variant: Variant, roots: int
) -> None:
    assert len(list(roundings(SMALL, replace(SMALL, **change), variant))) == roots


def command(*arguments: str, output: Path) -> tuple[int, str]:
    sizes = [
        part
        for name, size in asdict(replace(SMALL, layers=7)).items()
        for part in (f"--{name.replace('_', '-')}", str(size))
    ]
    done = CliRunner().invoke(app, ["widen", "--output", str(output), *sizes, *arguments])
    return done.exit_code, " ".join(done.output.split())


def test_the_command_writes_what_can_be_served(tmp_path: Path) -> None:
    """In bfloat16, a layer to a file, with the tokenizer beside, and the embedded adapters."""
    code, said = command("--hidden-size", "1024", output=tmp_path / "wide")
    assert code == 0, said
    assert "hidden size 1024, layers 7" in said and "exact in real" not in said
    base, source = tmp_path / "wide" / "base", embedded.path() / "base"
    assert len(list(base.glob("model-*.safetensors"))) == 8
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (base / name).read_bytes() == (source / name).read_bytes()
    names = {folder.name for folder in (tmp_path / "wide" / "adapters").iterdir()}
    assert names == set(embedded.adapter_names())
    model, ids = load(base, torch.float32), torch.arange(4, 100)[None]
    assert model.config.dtype == torch.float32
    assert difference(logits(load(source, torch.float32), ids), logits(model, ids)) < 1e-5


def test_no_layer_is_mostly_zeros(tmp_path: Path) -> None:
    """A layer that was never trained reads and multiplies like any other."""
    wide = Shape(1024, 7, 800, 8, 4, 32)
    made = widen(Plan(embedded.path() / "base", tmp_path / "wide", wide))
    for layer in (0, 6):
        tensors = load_file(made.base / f"model-{layer + 2:05}-of-00008.safetensors")
        for path in ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.up_proj"):
            weight = tensors[f"model.layers.{layer}.{path}.weight"]
            assert (weight == 0).double().mean() < 0.01
            assert weight.float().std() > 0.01


def test_the_command_warns_and_refuses(tmp_path: Path) -> None:
    code, said = command("--hidden-size", "512", "--adapter", "/nowhere", output=tmp_path / "no")
    assert code == 2 and "/nowhere is no adapter" in said
    code, said = command("--layers", "1", output=tmp_path / "no")
    assert code == 2 and "layers must be at least 6" in said
    code, said = command("--model-id", str(tmp_path), output=tmp_path / "no")
    assert code == 2 and "no model's folder" in said
    assert list(tmp_path.iterdir()) == [], "nothing half made is left"
    medusa = str(embedded.path() / "adapters" / "medusa")
    again = ("--hidden-size", "512", "--adapter", medusa)
    code, said = command(*again, output=tmp_path / "wide")
    assert code == 0 and "exact in real arithmetic only: hidden size 512 is 2 times 256" in said
    code, said = command(*again, output=tmp_path / "wide")
    assert code == 2 and "is there already" in said
