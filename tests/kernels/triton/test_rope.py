"""Rotation and the write into the cache, as transformers and kv_cache do them one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from lorax_spec.kernels import rope as reference
from lorax_spec.kernels.triton.rope import rotate_and_write

UNTOUCHED = 7.0


def draw(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def turns(positions: torch.Tensor, size: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """cos and sin [rows, size], as transformers hands them to attention."""
    frequencies = 10_000.0 ** -(torch.arange(0, size, 2) / size)
    angles = (positions[:, None] * frequencies).repeat(1, 2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


@settings(max_examples=25)
@given(
    st.integers(0, 99),
    st.lists(st.integers(0, 20), min_size=1, max_size=5, unique=True),
    st.sets(st.integers(0, 4)),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([(2, 2), (16, 16), (24, 24), (80, 48), (96, 128)]),
    st.sampled_from([torch.float32, torch.float16]),
)
def test_rows_of_any_shape(
    device: torch.device,
    seed: int,
    chosen: list[int],
    padding: set[int],
    kv_heads: int,
    shared: int,
    sizes: tuple[int, int],
    dtype: torch.dtype,
) -> None:
    """Bit for bit: every product and sum is rounded where torch rounds it."""
    rows, (size, value_dim) = len(chosen), sizes
    query = draw(seed, rows, kv_heads * shared, size, dtype=dtype).to(device)
    key = draw(seed + 1, rows, kv_heads, size, dtype=dtype).to(device)
    value = draw(seed + 2, rows, kv_heads, value_dim, dtype=dtype).to(device)
    positions = draw(seed + 3, rows).abs() * 500
    cos, sin = (turn.to(device) for turn in turns(positions, size, dtype))
    chosen = [-1 - row if row in padding else slot for row, slot in enumerate(chosen)]
    slots = torch.tensor(chosen, device=device)
    caches = [
        torch.full((kv_heads, 21, d), UNTOUCHED, dtype=dtype, device=device)
        for d in (size, value_dim) * 2
    ]
    rotated = rotate_and_write(query, key, value, cos, sin, *caches[:2], slots)
    expected = reference.rotate_and_write(query, key, value, cos, sin, *caches[2:], slots)
    assert torch.equal(rotated, expected)
    assert torch.equal(caches[0], caches[2]) and torch.equal(caches[1], caches[3])
    others = [slot for slot in range(21) if slot not in chosen]
    assert (caches[0][:, others] == UNTOUCHED).all() and (caches[1][:, others] == UNTOUCHED).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_reference_is_what_transformers_does(dtype: torch.dtype) -> None:
    query, key = draw(0, 6, 4, 32, dtype=dtype), draw(1, 6, 2, 32, dtype=dtype)
    cos, sin = turns(torch.arange(6.0) * 100, 32, dtype)
    heads_first = query.transpose(0, 1)[None], key.transpose(0, 1)[None]
    expected = apply_rotary_pos_emb(*heads_first, cos[None], sin[None])
    assert torch.equal(reference.rotate(query, cos, sin).transpose(0, 1), expected[0][0])
    assert torch.equal(reference.rotate(key, cos, sin).transpose(0, 1), expected[1][0])


def test_the_rotation_is_one(device: torch.device) -> None:
    """Against complex numbers in float64; three roundings of numbers up to the row's largest."""
    query = draw(0, 4, 2, 64).to(device)
    positions = torch.tensor([0.0, 1.0, 77.0, 4000.0])
    cos, sin = turns(positions.double(), 64, torch.float64)
    pairs = torch.complex(query.double()[..., :32], query.double()[..., 32:])
    turned = pairs * torch.complex(cos, sin)[:, None, :32].to(device)
    expected = torch.cat((turned.real, turned.imag), -1)
    cache = query.new_zeros(2, 4, 64)
    slots = torch.arange(4, device=device)
    single = cos.float().to(device), sin.float().to(device)
    rotated = rotate_and_write(query, query, query, *single, cache, cache.clone(), slots)
    bound = 4 * torch.finfo(torch.float32).eps * query.abs().max()
    assert (rotated.double() - expected).abs().max() <= bound
    assert torch.equal(cache.transpose(0, 1), rotated)


def test_parts_of_one_product(device: torch.device) -> None:
    """Query, key and value lie side by side, as a merged product leaves them."""
    product = draw(0, 3, (4 + 2 + 2) * 16).to(device)
    query, key, value = (
        part.view(3, -1, 16) for part in product.split([4 * 16, 2 * 16, 2 * 16], -1)
    )
    cos, sin = (turn.to(device) for turn in turns(torch.arange(3.0), 16, torch.float32))
    slots = torch.tensor([5, -1, 0], device=device)
    caches = [torch.zeros(2, 6, 16, device=device) for _ in range(4)]
    rotated = rotate_and_write(query, key, value, cos, sin, *caches[:2], slots)
    expected = rotate_and_write(
        query.clone(), key.clone(), value.clone(), cos, sin, *caches[2:], slots
    )
    assert torch.equal(rotated, expected)
    assert torch.equal(caches[0], caches[2]) and torch.equal(caches[1], caches[3])
    assert torch.equal(caches[1][:, 5], value[0]) and not caches[1][:, 1:5].any()


def test_bfloat16(device: torch.device) -> None:
    query = draw(0, 2, 2, 16, dtype=torch.bfloat16).to(device)
    cos, sin = (turn.to(device) for turn in turns(torch.tensor([3.0, 9.0]), 16, torch.bfloat16))
    cache = query.new_zeros(2, 2, 16)
    slots = torch.arange(2, device=device)
    rotated = rotate_and_write(query, query, query, cos, sin, cache, cache.clone(), slots)
    expected = reference.rotate(query.double(), cos.double(), sin.double())
    # Three roundings (the interpreter's cut off: twice as large) of numbers up to the largest.
    assert (rotated.double() - expected).abs().max() <= 4 * 2**-8 * query.abs().max()


def test_no_rows(device: torch.device) -> None:
    nothing, cache = torch.zeros(0, 2, 8, device=device), torch.zeros(2, 4, 8, device=device)
    cos = torch.zeros(0, 8, device=device)
    slots = torch.zeros(0, dtype=torch.int64, device=device)
    rotated = rotate_and_write(nothing, nothing, nothing, cos, cos, cache, cache.clone(), slots)
    assert rotated.shape == (0, 2, 8)
