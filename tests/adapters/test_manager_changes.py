"""Folders that change, and adapters that are unloaded, while they are in use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorax_spec.errors import AdapterNotFound
from tests.adapters.rig import Rig
from tests.adapters.writers import lora_tensors, write_lora


def test_a_changed_folder_is_a_new_version(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=3)
    old = rig.take("a")
    before = old.weights[0].lora
    assert before is not None
    kept = before.modules["model.layers.0.self_attn.q_proj"].a.clone()
    write_lora(tmp_path / "a", tensors=lora_tensors(seed=77))
    new = rig.take("a")
    assert old.ready and new.ready
    assert old.weights[0].fingerprint != new.weights[0].fingerprint
    assert torch.equal(before.modules["model.layers.0.self_attn.q_proj"].a, kept)
    old.release()
    assert rig.info("a").in_use == 1
    rig.manager.check_integrity()
    assert rig.ask("a").weights == new.weights


def test_a_folder_that_changes_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    lease = rig.ask("a")
    write_lora(tmp_path / "a", tensors=lora_tensors(seed=77))
    rig.executor.run_all()
    assert lease.ready and rig.ask("a").weights == lease.weights
    write_lora(tmp_path / "other", tensors=lora_tensors(seed=77))
    assert rig.take("other").weights[0].fingerprint == lease.weights[0].fingerprint


def test_unload_in_use_waits_for_the_last_lease(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    first, second = rig.take("a"), rig.take("a")
    rig.manager.unload("a")
    assert rig.states("a") == ["evicting"] and first.ready
    first.release()
    assert rig.states("a") == ["evicting"]
    fresh = rig.ask("a")
    assert not fresh.ready
    rig.executor.run_all()
    assert fresh.weights[0] is not second.weights[0]
    second.release()
    rig.manager.unload("a")
    fresh.release()
    assert rig.states("a") == ["absent"]
    rig.manager.unload("a")  # known to the source: nothing to do
    rig.manager.check_integrity()


def test_unload_while_it_loads(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    lease = rig.ask("a")
    rig.manager.unload("a")
    rig.executor.run_all()
    assert lease.ready
    lease.release()
    gone = rig.ask("b")
    gone.release()
    rig.manager.unload("b")
    rig.executor.run_all()
    assert rig.states("ab") == ["absent", "absent"]
    rig.manager.check_integrity()


def test_a_deleted_folder_is_served_no_more_but_can_be_unloaded(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    held = rig.take("a")
    for file in (tmp_path / "a").iterdir():
        file.unlink()
    assert isinstance(rig.ask("a").error, AdapterNotFound) and held.ready
    rig.manager.unload("a")
    held.release()
    assert "a" not in [info.adapter_id for info in rig.manager.list()]
    with pytest.raises(AdapterNotFound):
        rig.manager.unload("a")
