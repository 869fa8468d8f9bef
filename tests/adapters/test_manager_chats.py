"""How an adapter writes conversations is known once it was read, and nobody waits in a thread."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path

import pytest
import torch

from lorax_spec.adapters.folder import read_folder
from lorax_spec.errors import AdapterMismatch, AdapterNotFound, LoraxSpecError, Unavailable
from lorax_spec.types import AdapterChat, AdapterRef
from tests.adapters.rig import LORA, Rig
from tests.adapters.writers import SHAPE, write_lora


def template(rig: Rig, name: str, text: str) -> None:
    (rig.root / name / "chat_template.jinja").write_text(text)


def ask(rig: Rig, name: str) -> Future[AdapterChat]:
    return rig.manager.chat(AdapterRef(name))


def told(rig: Rig, name: str) -> str:
    future = ask(rig, name)
    rig.executor.run_all()
    rig.manager.check_integrity()
    return future.result(0).template


def test_a_folders_own_and_none(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    template(rig, "a", "mine")
    future = ask(rig, "a")
    assert not future.done()
    rig.executor.run_all()
    assert future.result(0) == AdapterChat("mine")
    assert told(rig, "b") == ""
    assert ask(rig, "a").result(0) == AdapterChat("mine"), "what was read once is known"
    assert not rig.executor.jobs
    assert not rig.manager._residency.leases


def test_a_changed_template_is_a_new_version(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    template(rig, "a", "old")
    assert told(rig, "a") == "old"
    template(rig, "a", "longer")
    assert told(rig, "a") == "longer"
    (rig.root / "a" / "chat_template.jinja").unlink()
    assert told(rig, "a") == ""


def test_it_outlives_the_adapters_memory(tmp_path: Path) -> None:
    """Evicted from everywhere, it is known without reading it again."""
    rig = Rig(tmp_path, slots=1, host_bytes=LORA)
    template(rig, "a", "mine")
    assert told(rig, "a") == "mine"
    for name in "bc":
        rig.take(name).release()
    assert rig.states("a") == ["absent"]
    assert ask(rig, "a").result(0) == AdapterChat("mine")


def test_it_needs_no_room_on_the_device(tmp_path: Path) -> None:
    rig = Rig(tmp_path, slots=1)
    template(rig, "b", "mine")
    holder = rig.take("a")
    assert told(rig, "b") == "mine"
    assert holder.ready and rig.info("b").tier == "host"


def test_many_who_ask_are_told_at_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    template(rig, "a", "mine")
    futures = [ask(rig, "a") for _ in range(50)]
    rig.executor.run_all()
    assert {future.result(0).template for future in futures} == {"mine"}
    assert not rig.manager._residency.leases
    rig.manager.check_integrity()


def test_who_gives_up_holds_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    given_up, patient = ask(rig, "a"), ask(rig, "a")
    leases = rig.manager._residency.leases
    assert len(leases) == 2
    assert given_up.cancel()
    assert len(leases) == 1
    rig.executor.run_all()
    assert patient.result(0) == AdapterChat() and not leases
    rig.manager.check_integrity()


@pytest.mark.parametrize(("name", "error"), [("z", AdapterNotFound), ("a", AdapterMismatch)])
def test_faults_are_those_of_a_lease(
    tmp_path: Path, name: str, error: type[LoraxSpecError]
) -> None:
    rig = Rig(tmp_path)
    (rig.root / "a" / "adapter_config.json").write_text("{")
    for _ in range(2):
        future = ask(rig, name)
        rig.executor.run_all()
        assert isinstance(future.exception(0), error)
    rig.manager.check_integrity()


def test_closing_tells_those_who_wait(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    future = ask(rig, "a")
    rig.manager.close()
    assert isinstance(future.exception(0), Unavailable)
    assert isinstance(ask(rig, "a").exception(0), Unavailable)


def test_it_goes_with_the_weights_to_the_device(tmp_path: Path) -> None:
    folder = write_lora(tmp_path)
    (folder / "chat_template.jinja").write_text("mine")
    plain = read_folder(write_lora(tmp_path / "plain"), SHAPE, torch.float32)
    weights = read_folder(folder, SHAPE, torch.float32)
    assert weights.chat == weights.to("meta").chat == AdapterChat("mine")
    assert weights.fingerprint == plain.fingerprint, "equal prompts may share their cache"
