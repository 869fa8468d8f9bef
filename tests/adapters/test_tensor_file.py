from __future__ import annotations

import math
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lorax_spec.adapters.tensor_file import StoredTensor, read_header, read_tensors
from lorax_spec.errors import AdapterMismatch

DTYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])
SHAPES = st.lists(st.integers(0, 5), max_size=3)
TENSORS = st.dictionaries(st.text(min_size=1, max_size=9), st.tuples(SHAPES, DTYPES), max_size=5)


def read_one(name: str, stored: StoredTensor) -> torch.Tensor:
    data = torch.empty(stored.numel, dtype=stored.dtype)
    read_tensors({name: (stored, 0)}, data)
    return data.view(stored.shape)


def read_all(path: Path) -> dict[str, torch.Tensor]:
    return {name: read_one(name, stored) for name, stored in read_header(path).items()}


@settings(deadline=None)
@given(TENSORS)
def test_reads_what_safetensors_writes(sizes: dict[str, tuple[list[int], torch.dtype]]) -> None:
    tensors = {n: torch.randn(shape).to(dtype) for n, (shape, dtype) in sizes.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        save_file(tensors, path, metadata={"format": "pt"})
        read = read_all(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)


@settings(deadline=None)
@given(TENSORS, TENSORS, st.data())
def test_any_files_into_one_slab(
    first: dict[str, tuple[list[int], torch.dtype]],
    second: dict[str, tuple[list[int], torch.dtype]],
    data: st.DataObject,
) -> None:
    """In any order, with gaps or without, whatever lies side by side: tensors go to their places,
    and nothing else is touched.
    """
    sizes = {f"1{name}": size for name, size in first.items()}
    sizes |= {f"2{name}": size for name, size in second.items()}
    tensors = {name: torch.randn(shape).to(dtype) for name, (shape, dtype) in sizes.items()}
    slab_dtype = data.draw(DTYPES)
    expected, places = [], {}
    with tempfile.TemporaryDirectory() as folder:
        stored: dict[str, StoredTensor] = {}
        for number in "12":
            path = Path(folder) / f"{number}.safetensors"
            save_file({n: t for n, t in tensors.items() if n[0] == number}, path)
            stored |= read_header(path)
        order = list(stored) if data.draw(st.booleans()) else data.draw(st.permutations([*stored]))
        end = 0
        for name in order:
            gap = data.draw(st.sampled_from([0, 0, 0, 3]))
            places[name] = stored[name], end + gap
            expected += [torch.full((gap,), 7.0), tensors[name].to(slab_dtype).view(-1)]
            end += gap + tensors[name].numel()
        slab = torch.full((end,), 7.0, dtype=slab_dtype)
        read_tensors(places, slab)
    assert torch.equal(slab, torch.cat([torch.empty(0), *expected]).to(slab_dtype))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_broken_file_is_an_error_or_other_numbers(data: st.DataObject) -> None:
    """Whatever is done to a file: never a crash, and never more memory than its own size."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        save_file({"a": torch.randn(3, 4), "b": torch.randn(7).half()}, path)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b'09[]{}",-e.')))
        path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2]))])
        try:
            tensors = read_all(path)
        except AdapterMismatch as error:
            assert "x.safetensors" in error.message
        else:
            assert sum(tensor.nbytes for tensor in tensors.values()) <= 2 * len(content)


@pytest.mark.parametrize("kept", range(0, 200, 7))
def test_truncated_files(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.randn(8)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: min(kept, len(content) - 1)])
    with pytest.raises(AdapterMismatch, match="not a whole safetensors file"):
        read_header(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kept", "inside"), [(0, "a"), (399, "a"), (400, "b"), (700, "b")])
def test_a_file_that_shrinks_while_it_is_read(
    tmp_path: Path, dtype: torch.dtype, kept: int, inside: str
) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.randn(100), "b": torch.randn(100)}, path)
    stored = read_header(path)
    places = {"a": (stored["a"], 0), "b": (stored["b"], 100)}
    with path.open("r+b") as file:
        file.truncate(stored["a"].start + kept)
    with pytest.raises(AdapterMismatch, match=f"it ends inside {inside}"):
        read_tensors(places, torch.empty(200, dtype=dtype))
    path.unlink()
    with pytest.raises(AdapterMismatch, match="No such file"):
        read_tensors(places, torch.empty(200, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_more_than_one_buffer_is_cast(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "x.safetensors"
    tensor = torch.randn(100_003)
    save_file({"a": tensor}, path)
    data = torch.empty(100_003, dtype=dtype)
    read_tensors({"a": (read_header(path)["a"], 0)}, data)
    assert torch.equal(data, tensor.to(dtype))


def test_a_claim_of_huge_size_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    side = 10**9
    header = f'{{"a":{{"dtype":"F32","shape":[{side},{side}],"data_offsets":[0,{4 * side**2}]}}}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(AdapterMismatch, match="cut short"):
        read_header(path)
    assert math.prod([side, side]) > 2**59
