"""What is pinned stays on the device."""

from __future__ import annotations

from pathlib import Path

from lorax_spec.errors import Overloaded
from tests.adapters.rig import LORA, Rig
from tests.adapters.writers import lora_tensors, write_lora


def pinned(rig: Rig, adapter_id: str) -> None:
    rig.take(adapter_id).release()
    assert rig.manager.pin(adapter_id).pinned


def test_pins_stay(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    pinned(rig, "a")
    for name in "bcd":
        rig.take(name).release()
    assert rig.states("abcd") == ["device", "host", "host", "device"] and rig.info("a").pinned
    assert not rig.manager.pin("a", pinned=False).pinned
    for name in "bc":
        rig.take(name).release()
    assert rig.states("a") == ["host"]


def test_what_does_not_fit_beside_the_pins(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    running = rig.take("b")
    patient = rig.take("c", "d")
    rig.manager.pin("b")
    assert isinstance(patient.error, Overloaded) and "pinned" in patient.error.message
    running.release()
    assert rig.take("c").ready
    rig.manager.pin("b", pinned=False)
    rig.manager.check_integrity()


def test_what_does_not_fit_beside_the_bytes_of_the_pins(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=9, device_bytes=2 * LORA)
    pinned(rig, "a")
    assert isinstance(rig.take("b", "c").error, Overloaded)
    assert rig.take("b").ready


def test_unload_unpins(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    pinned(rig, "a")
    rig.manager.unload("a")
    assert rig.states("a") == ["absent"] and not rig.info("a").pinned
    rig.take("a").release()
    assert not rig.info("a").pinned


def test_a_pin_outlives_a_change_of_the_folder(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    pinned(rig, "a")
    write_lora(tmp_path / "a", tensors=lora_tensors(seed=77))
    for name in "abc":
        rig.take(name).release()
    assert rig.states("a") == ["device"] and rig.info("a").pinned
