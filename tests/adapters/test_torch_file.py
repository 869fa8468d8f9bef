"""Files of torch.save are read without running them, and give what torch itself reads."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorax_spec.adapters.tensor_file import read_tensors
from lorax_spec.adapters.torch_file import read_torch_header
from lorax_spec.errors import AdapterMismatch


def read_back(path: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, stored in read_torch_header(path).items():
        data = torch.empty(stored.numel, dtype=stored.dtype)
        read_tensors({name: (stored, 0)}, data)
        tensors[name] = data.view(stored.shape)
    return tensors


SHAPES = st.lists(st.integers(0, 5), max_size=3)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tensors=st.dictionaries(st.text(max_size=8), st.tuples(SHAPES, DTYPES), max_size=4))
def test_what_torch_saves_is_read(
    tmp_path: Path, tensors: dict[str, tuple[list[int], torch.dtype]]
) -> None:
    saved = {name: torch.randn(shape).to(dtype) for name, (shape, dtype) in tensors.items()}
    torch.save(saved, tmp_path / "heads.pt")
    found = read_back(tmp_path / "heads.pt")
    assert found.keys() == saved.keys()
    for name, tensor in saved.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


def test_modules_views_and_shared_storage(tmp_path: Path) -> None:
    heads = torch.nn.ModuleList([torch.nn.Linear(3, 4), torch.nn.Linear(4, 2, bias=False)])
    whole = torch.randn(6, 5)
    saved = {**heads.state_dict(), "rows": whole[2:4], "same": whole, "parameter": heads[0].weight}
    torch.save(heads.state_dict(), tmp_path / "module.pt")
    assert read_back(tmp_path / "module.pt").keys() == heads.state_dict().keys()
    torch.save(saved, tmp_path / "heads.pt")
    found = read_back(tmp_path / "heads.pt")
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"a": torch.randn(3, 4).T}, "do not lie in one piece"),
        ({"a": torch.zeros(3, dtype=torch.int64)}, "LongStorage', not floating-point"),
        ({"a": 1}, "entry 'a' is not a tensor"),
        ({1: torch.zeros(1)}, "makes no sense"),
        ([torch.zeros(1)], "not a dictionary"),
        ({"a": Path("x")}, "wants to call"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, content: object, why: str) -> None:
    torch.save(content, tmp_path / "heads.pt")
    with pytest.raises(AdapterMismatch, match=why):
        read_torch_header(tmp_path / "heads.pt")


def test_old_files_and_plain_pickles_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"a": 1}))
    for name in ("old.pt", "plain.pt", "none.pt"):
        with pytest.raises(AdapterMismatch):
            read_torch_header(tmp_path / name)


def test_deep_nesting_takes_no_time(tmp_path: Path) -> None:
    """A tuple of the same tuple twice, fifty times over, as a key: hashing it would take years."""
    torch.save({"key": 1}, tmp_path / "heads.pt")
    plain = (tmp_path / "heads.pt").read_bytes()
    at = plain.index(b"\x80\x02}")
    for end in (b"K\x01s.", b"Q.", b"K\x01\x86R."):
        program = b"\x80\x02}" + b")" + b"2\x86" * 50 + end
        changed = plain[:at] + program + plain[at + len(program) :]
        (tmp_path / "deep.pt").write_bytes(changed)
        with pytest.raises(AdapterMismatch):
            read_torch_header(tmp_path / "deep.pt")


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_broken_files_cost_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "whole.pt"
    if not path.exists():
        torch.save({"0.0.linear.weight": torch.randn(2, 2), "b": torch.ones(3)}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    (folder / "broken.pt").write_bytes(content)
    try:
        read_back(folder / "broken.pt")
    except AdapterMismatch as error:
        assert "broken.pt" in error.message
