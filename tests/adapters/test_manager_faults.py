"""What goes wrong costs those who asked for it, and nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorax_spec.errors import AdapterMismatch, AdapterNotFound, InternalError, PermissionDenied
from lorax_spec.types import AdapterRef
from tests.adapters.rig import LORA, MEDUSA, Rig
from tests.adapters.writers import lora_config, write_lora, write_medusa


def test_a_slow_or_broken_load_holds_up_nobody(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    (tmp_path / "b" / "adapter_model.safetensors").write_bytes(b"broken")
    slow, broken, quick = rig.ask("a"), rig.ask("b"), rig.ask("c")
    for _ in range(3):
        rig.executor.step(2)
    assert quick.ready and not slow.ready and not broken.error
    for _ in range(2):
        rig.executor.step(1)
    assert isinstance(broken.error, AdapterMismatch) and not broken.ready
    assert "adapter b" in broken.error.message and rig.info("b").error == broken.error.message
    rig.executor.run_all()
    assert slow.ready
    broken.release()
    rig.manager.check_integrity()


def test_one_bad_adapter_fails_the_whole_lease_only(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    write_lora(tmp_path / "b", lora_config(r=8))
    pair, alone = rig.ask("a", "b"), rig.ask("a")
    rig.executor.run_all()
    assert isinstance(pair.error, AdapterMismatch) and pair.weights == () and alone.ready


@pytest.mark.parametrize(
    ("adapter_id", "error"), [("nothing", AdapterNotFound), ("../a", PermissionDenied)]
)
def test_what_the_source_refuses(tmp_path: Path, adapter_id: str, error: type[Exception]) -> None:
    rig = Rig(tmp_path)
    lease = rig.ask("a", adapter_id)
    assert isinstance(lease.error, error) and not rig.executor.jobs
    lease.release()
    with pytest.raises(error):
        rig.manager.load(AdapterRef(adapter_id))
    with pytest.raises(error):
        rig.manager.unload(adapter_id)
    with pytest.raises(error):
        rig.manager.pin(adapter_id)
    with pytest.raises(error):
        rig.manager.pin(adapter_id, pinned=False)


def test_a_failure_is_remembered_for_a_second(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    config = tmp_path / "a" / "adapter_config.json"
    good = config.read_bytes()
    config.unlink()
    config.mkdir()
    (tmp_path / "a" / "config.json").write_text("{}")
    first = rig.take("a")
    assert first.error is not None and rig.states("a") == ["failed"]
    first.release()
    second = rig.ask("a")
    assert second.error is first.error and not rig.executor.jobs
    rig.clock.now += 1.01
    third = rig.take("a")
    assert third.error is not None and third.error is not first.error
    config.rmdir()
    config.write_bytes(good)
    assert rig.take("a").ready  # a changed folder is tried at once


def test_what_can_never_fit_says_the_sizes(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "1", slots=9, device_bytes=LORA + MEDUSA - 1)
    write_medusa(rig.root / "heads")
    error = rig.take("a", "heads").error
    assert isinstance(error, AdapterMismatch)
    assert str(LORA + MEDUSA) in error.message and str(LORA + MEDUSA - 1) in error.message
    small = Rig(tmp_path / "2", device_bytes=LORA - 1)
    error = small.take("a").error
    assert isinstance(error, AdapterMismatch) and str(LORA) in error.message
    error = Rig(tmp_path / "3").take("a", "b", "c").error
    assert isinstance(error, AdapterMismatch) and "3 adapters" in error.message


def test_a_place_that_fails_costs_its_own_leases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    held = rig.take("b")
    place = rig.manager._place_on_device

    def full(weights: object) -> object:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(rig.manager, "_place_on_device", full)
    lost = rig.take("a")
    assert isinstance(lost.error, InternalError) and "no memory" in lost.error.message
    assert held.ready and rig.states("ab") == ["host", "device"]
    monkeypatch.setattr(rig.manager, "_place_on_device", place)
    assert rig.take("a").ready
