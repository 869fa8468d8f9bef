from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorax_spec.adapters.folder import read_folder
from lorax_spec.adapters.loading import as_fault, load
from lorax_spec.adapters.local_source import LocalSource
from lorax_spec.adapters.source import Location
from lorax_spec.adapters.weights import AdapterWeights
from lorax_spec.errors import AdapterMismatch, InternalError, Unavailable
from lorax_spec.types import AdapterRef
from tests.adapters.writers import SHAPE, lora_tensors, write_lora

REF = AdapterRef("a")


class Rewritten:
    """Reads a folder that somebody rewrites right after the first ``times`` readings."""

    def __init__(self, root: Path, times: int, cut: int = 0) -> None:
        self.folder, self.times, self.cut, self.seed = root / "a", times, cut, 0
        write_lora(self.folder)
        self.source = LocalSource({"": root})

    def read(self, location: Location) -> AdapterWeights:
        try:
            if self.seed < self.cut:
                raise AdapterMismatch("cut short")
            return read_folder(location.folder, SHAPE, torch.float32)
        finally:
            if self.seed < self.times:
                self.seed += 1
                write_lora(self.folder, tensors=lora_tensors(seed=self.seed))

    def load(self) -> tuple[Location, AdapterWeights]:
        return load(self.source, REF, self.source.resolve(REF), self.read)


@pytest.mark.parametrize(("times", "cut"), [(0, 0), (1, 0), (3, 0), (1, 1), (3, 3)])
def test_the_last_content_counts(tmp_path: Path, times: int, cut: int) -> None:
    rewritten = Rewritten(tmp_path, times, cut)
    location, weights = rewritten.load()
    assert location == rewritten.source.resolve(REF)
    last = read_folder(rewritten.folder, SHAPE, torch.float32)
    assert weights.fingerprint == last.fingerprint


def test_what_is_written_meanwhile_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two readings are in vain; what comes before the third, while it waits, costs none."""
    rewritten = Rewritten(tmp_path, times=2)
    waits = []

    def write(seconds: float) -> None:
        waits.append(seconds)
        write_lora(rewritten.folder, tensors=lora_tensors(seed=8))

    monkeypatch.setattr("lorax_spec.adapters.loading.time.sleep", write)
    _, weights = rewritten.load()
    assert len(waits) == 1
    last = read_folder(rewritten.folder, SHAPE, torch.float32)
    assert weights.fingerprint == last.fingerprint


def test_a_folder_that_never_rests(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="rewritten"):
        Rewritten(tmp_path, times=9).load()


def test_a_fault_of_a_folder_at_rest_is_told(tmp_path: Path) -> None:
    with pytest.raises(AdapterMismatch, match="cut short"):
        Rewritten(tmp_path, times=0, cut=1).load()


def test_faults_name_the_adapter() -> None:
    known, unknown = as_fault("x", AdapterMismatch("why")), as_fault("x", KeyError("why"))
    assert isinstance(known, AdapterMismatch) and known.message == "adapter x: why"
    assert isinstance(unknown, InternalError) and unknown.message == "adapter x: KeyError: 'why'"
