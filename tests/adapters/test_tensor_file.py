from __future__ import annotations

import math
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lorax_spec.adapters.tensor_file import read_header, read_tensors
from lorax_spec.errors import AdapterMismatch

DTYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16])
SHAPES = st.lists(st.integers(0, 5), max_size=3)
TENSORS = st.dictionaries(st.text(min_size=1, max_size=9), st.tuples(SHAPES, DTYPES), max_size=5)


def read_all(path: Path) -> dict[str, torch.Tensor]:
    header = read_header(path)
    targets = {n: (t, torch.empty(t.shape, dtype=t.dtype)) for n, t in header.items()}
    read_tensors(targets)
    return {name: target for name, (_, target) in targets.items()}


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


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.randn(1000)}, path)
    (stored,) = read_header(path).values()
    with path.open("r+b") as file:
        file.truncate(stored.start + 100)
    with pytest.raises(AdapterMismatch, match="it ends inside a"):
        read_tensors({"a": (stored, torch.empty(1000))})
    path.unlink()
    with pytest.raises(AdapterMismatch, match="No such file"):
        read_tensors({"a": (stored, torch.empty(1000))})


def test_a_claim_of_huge_size_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    side = 10**9
    header = f'{{"a":{{"dtype":"F32","shape":[{side},{side}],"data_offsets":[0,{4 * side**2}]}}}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(AdapterMismatch, match="cut short"):
        read_header(path)
    assert math.prod([side, side]) > 2**59
