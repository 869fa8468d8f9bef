"""Damaged adapters in a running engine: one clear error each, and nobody else notices."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lorax_spec import embedded
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import TokenRequest
from lorax_spec.errors import AdapterMismatch
from lorax_spec.types import Method
from tests.conformance.running import Outcome, run
from tests.engine.conftest import NewRequest

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
DRAFTING = "good/tests-medusa"
TOKENS = 12


def bits(outcome: Outcome) -> list[tuple[int, float]]:
    return [(token.id, token.logprob) for token in outcome.tokens]


def truncated(folder: Path, draw: st.DataObject) -> None:
    content = (folder / TENSORS).read_bytes()
    left = draw.draw(st.integers(1, len(content) - 1), "bytes left")
    (folder / TENSORS).write_bytes(content[:left])


def empty(folder: Path, draw: st.DataObject) -> None:
    (folder / draw.draw(st.sampled_from([TENSORS, CONFIG]), "file")).write_bytes(b"")


def header_bit_flipped(folder: Path, draw: st.DataObject) -> None:
    """In the header's length: no digest says what a local file's numbers should be, and another
    letter of a name or of the metadata may mean nothing."""
    content = bytearray((folder / TENSORS).read_bytes())
    bit = draw.draw(st.integers(0, 63), "bit")
    content[bit // 8] ^= 1 << bit % 8
    (folder / TENSORS).write_bytes(content)


def wrong_shape(folder: Path, draw: st.DataObject) -> None:
    tensors = load_file(folder / TENSORS)
    name = draw.draw(st.sampled_from(sorted(tensors)), "tensor")
    axis = draw.draw(st.integers(0, 1), "axis")
    tensors[name] = torch.cat([tensors[name], tensors[name]], axis)
    save_file(tensors, folder / TENSORS)


def wrong_base(folder: Path, draw: st.DataObject) -> None:
    """By its sizes: a model that is served from a path may have been given any name."""
    width = draw.draw(st.sampled_from([64, 128, 192, 512]), "hidden size")
    tensors = {
        name: torch.zeros([width if size == 256 else size for size in tensor.shape])
        for name, tensor in load_file(folder / TENSORS).items()
    }
    save_file(tensors, folder / TENSORS)


def not_finite(folder: Path, draw: st.DataObject) -> None:
    tensors = load_file(folder / TENSORS)
    name = draw.draw(st.sampled_from(sorted(tensors)), "tensor")
    place = draw.draw(st.integers(0, tensors[name].numel() - 1), "place")
    tensors[name].view(-1)[place] = draw.draw(st.sampled_from([torch.nan, torch.inf, -torch.inf]))
    save_file(tensors, folder / TENSORS)


DAMAGES: list[Callable[[Path, st.DataObject], None]] = [
    truncated,
    empty,
    header_bit_flipped,
    wrong_shape,
    wrong_base,
    not_finite,
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def core(root: Path) -> Iterator[EngineCore]:
    core = EngineCore.load(
        EngineConfig(
            str(embedded.path() / "base"),
            dtype="float32",
            max_total_tokens=512,
            deterministic=True,
            adapter_roots={"good": embedded.path() / "adapters", "": root},
        )
    )
    yield core
    core.check_integrity()
    core.close()


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_one_clear_error_and_nothing_else_disturbed(
    core: EngineCore,
    root: Path,
    prompts: dict[str, list[tuple[int, ...]]],
    new_request: NewRequest,
    damage: Callable[[Path, st.DataObject], None],
) -> None:
    prompt = prompts["doc"][0]
    others = [None, "good/pirate", DRAFTING]

    def requests() -> list[TokenRequest]:
        methods = [Method.NONE, Method.NONE, Method.MEDUSA]
        return [
            new_request(prompt, TOKENS, method, 4 if name == DRAFTING else None, adapter=name)
            for name, method in zip(others, methods, strict=True)
        ]

    alone = [run(core, [request])[0] for request in requests()]
    count = 0

    @settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
    @given(st.data())
    def disturbed(data: st.DataObject) -> None:
        nonlocal count
        count += 1
        name = f"{damage.__name__}-{count}"
        folder = root / name
        shutil.copytree(embedded.path() / "adapters" / "pirate", folder)
        damage(folder, data)
        bad = [new_request(prompt, TOKENS, adapter=name) for _ in range(2)]
        *good, first, second = run(core, [*requests(), *bad])
        assert list(map(bits, good)) == list(map(bits, alone))
        assert good[2].speculation == alone[2].speculation
        assert good[2].speculation.accepted_tokens > 0
        for outcome in (first, second):
            assert isinstance(outcome.error, AdapterMismatch), outcome.error
            assert name in outcome.error.message
            assert not outcome.tokens
        shutil.rmtree(folder)

    disturbed()
