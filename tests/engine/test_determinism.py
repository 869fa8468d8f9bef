"""The self-check of determinism: it finds a floor where there is one, and no fraud gets past it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, MixtralConfig, PreTrainedConfig

from lorax_spec import embedded
from lorax_spec.engine import determinism, loading
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.determinism import FLOORS, row_floor
from lorax_spec.engine.ops_choice import prepare
from lorax_spec.engine.packed import PackedLinear, SharedProduct, pack_linears, shared_inputs
from lorax_spec.errors import InvalidArgument
from lorax_spec.kernels.attention import Tiles, paged_attention
from lorax_spec.kernels.linear import can_pack

HEADS = (8, 4, 32)
#: What this processor can pack.
DTYPES = [d for d in (torch.float32, torch.bfloat16) if can_pack(torch.zeros(1, 1, dtype=d))]


class Suspect(nn.Linear):
    """Exact sums in float64, then a last bit that follows from what no row should see."""

    def __init__(self, tamper: Callable[[int, int], bool]) -> None:
        super().__init__(32, 48)
        self._tamper = tamper

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = (x.double() @ self.weight.double().T + self.bias.double()).float()
        for row in range(len(x)):
            if self._tamper(row, len(x)):
                y[row] = torch.nextafter(y[row], torch.tensor(torch.inf))
        return y


def packed(linear: nn.Linear) -> PackedLinear:
    return PackedLinear(linear, SharedProduct([linear]), 0)


@pytest.mark.parametrize(
    ("tamper", "floor"),
    [
        (lambda row, rows: False, 1),
        (lambda row, rows: rows == 1, 2),
        (lambda row, rows: rows == 3, 4),
        (lambda row, rows: rows == 7, 8),
        (lambda row, rows: rows < 16, 16),
        (lambda row, rows: rows == 100, None),
        (lambda row, rows: row == 3, None),
        (lambda row, rows: row >= 256, None),
    ],
)
def test_a_layer_whose_bits_depend_on_other_rows_is_found_out(
    tamper: Callable[[int, int], bool], floor: int | None
) -> None:
    honest = packed(nn.Linear(32, 64))
    least = row_floor(nn.Sequential(honest), *HEADS)
    assert least is not None
    expected = None if floor is None else max(floor, least)
    assert row_floor(nn.Sequential(honest, Suspect(tamper)), *HEADS) == expected


def test_attention_whose_bits_depend_on_its_tiles_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wide_only(
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        groups: tuple[Tiles, ...],
        *,
        scale: float,
    ) -> torch.Tensor:
        out = paged_attention(query, keys, values, groups, scale=scale)
        return out * (1 + 1e-6) if groups[0].rows.shape[1] == 32 else out

    model = nn.Sequential(packed(nn.Linear(32, 64)))
    assert row_floor(model, *HEADS) in FLOORS
    monkeypatch.setattr(determinism, "paged_attention", wide_only)
    assert row_floor(model, *HEADS) is None


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64, eos_token_id=1, bos_token_id=1),
        MixtralConfig(
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            vocab_size=64,
        ),
    ],
)
def test_nothing_is_promised_of_products_that_are_not_tried(config: PreTrainedConfig) -> None:
    """GPT-2's layers are of transformers' own kind, Mixtral's experts are one tensor."""
    model = AutoModelForCausalLM.from_config(config)
    pack_linears(model)
    assert row_floor(model, 2, 2, 16) is None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_this_machine_has_a_floor_for_the_embedded_model(dtype: torch.dtype) -> None:
    model = AutoModelForCausalLM.from_pretrained(embedded.path() / "base", dtype=dtype)
    layers = pack_linears(model)
    assert bool(layers) == (dtype in DTYPES)
    assert row_floor(model, *HEADS) in FLOORS


@pytest.mark.parametrize("floor", [None, 8])
def test_determinism_is_refused_where_it_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, floor: int | None
) -> None:
    monkeypatch.setattr(loading, "row_floor", lambda *_: floor)
    monkeypatch.setattr(loading, "cost_of_invariance", lambda *_: 1.5)
    monkeypatch.setattr(loading, "_heads", lambda _: HEADS)

    def decide(wish: bool | None) -> tuple[int, bool]:
        model = nn.Sequential(nn.Linear(8, 8))
        model.device = torch.device("cpu")  # type: ignore[assignment]
        config = EngineConfig("", deterministic=wish)
        return loading._row_floor(config, model, kernels=False)  # type: ignore[arg-type]

    assert decide(None) == (1, False), "too dear to be the default"
    assert decide(False) == (1, False)
    if floor is None:
        with pytest.raises(InvalidArgument, match="deterministic"):
            decide(True)
    else:
        assert decide(True) == (8, True)
        monkeypatch.setattr(loading, "cost_of_invariance", lambda *_: 1.05)
        assert decide(None) == (8, True)


@given(
    rows=st.integers(1, 70),
    inputs=st.sampled_from([1, 7, 32, 257]),
    outputs=st.sampled_from([1, 5, 48, 300]),
    bias=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
def test_packed_products_are_products(
    rows: int, inputs: int, outputs: int, bias: bool, dtype: torch.dtype, seed: int
) -> None:
    """Within float32's rounding of a sum of ``inputs`` terms, and that of the result; in
    transformers' [1, rows, in]."""
    torch.manual_seed(seed)
    linear = nn.Linear(inputs, outputs, bias=bias, dtype=dtype)
    x = torch.randn(1, rows, inputs, dtype=dtype)
    with torch.inference_mode():
        expected = x.double() @ linear.weight.double().T
        if bias:
            expected += linear.bias.double()
        actual = packed(linear)(x)
    size = (x.double().abs() @ linear.weight.double().abs().T) + 1
    assert actual.shape == (1, rows, outputs)
    assert actual.dtype is dtype
    bound = 2e-7 * inputs**0.5 * size + torch.finfo(dtype).eps * expected.abs()
    assert ((actual - expected).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(256, 704), (704, 256), (256, 4096)])
def test_packed_rows_are_the_same_in_any_company(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    """In bfloat16 but for a row that is alone, which other machines may round alike."""
    layer = packed(nn.Linear(*shape, bias=False, dtype=dtype))
    x = torch.randn(40, shape[0], dtype=dtype)
    alone = ((0, 1), (3, 1)) if dtype is torch.float32 else ()
    with torch.inference_mode():
        whole = layer(x)
        for start, count in (*alone, (5, 2), (8, 7), (1, 8), (0, 33)):
            assert torch.equal(layer(x[start : start + count]), whole[start : start + count])


@given(rows=st.integers(1, 20), bias=st.booleans(), order=st.permutations([0, 1, 2]))
def test_layers_of_one_input_share_a_product(rows: int, bias: bool, order: list[int]) -> None:
    """Asked in any order, and again for other inputs, each gives what it would give alone."""
    torch.manual_seed(rows)
    linears = [nn.Linear(16, size, bias=bias) for size in (8, 24, 4)]
    product = SharedProduct(linears)
    with torch.inference_mode():
        for x in (torch.randn(1, rows, 16), torch.randn(1, rows, 16)):
            for index in (*order, order[0]):
                linear = linears[index]
                torch.testing.assert_close(product.part(index, x), linear(x))


def test_shared_inputs_are_found() -> None:
    model = AutoModelForCausalLM.from_pretrained(embedded.path() / "base", dtype=torch.float32)
    groups = shared_inputs(model)
    ends = [[name.rpartition(".")[2] for name in group] for group in groups]
    blocks = model.config.num_hidden_layers
    assert ends == [["q_proj", "k_proj", "v_proj"], ["gate_proj", "up_proj"]] * blocks


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_product_of_a_model_on_a_cpu_is_packed(dtype: torch.dtype) -> None:
    """In bfloat16 too, wherever oneDNN has it."""
    assert (torch.bfloat16 in DTYPES) == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    model = AutoModelForCausalLM.from_pretrained(embedded.path() / "base", dtype=dtype)
    prepare(model, kernels=False)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert linears and {type(one) for one in linears} == {PackedLinear}


def test_packing_keeps_tied_weights_and_leaves_the_rest_alone() -> None:
    model = AutoModelForCausalLM.from_pretrained(embedded.path() / "base", dtype=torch.float32)
    embedding = model.get_input_embeddings().weight
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(pack_linears(model)) == len(linears)
    assert model.lm_head.weight is embedding
    assert pack_linears(model) == [], "nothing is packed twice"
    half = nn.Sequential(nn.Linear(8, 8).half())
    assert pack_linears(half) == []
    assert type(half[0]) is nn.Linear
