"""Imports run downhill only (DESIGN, section 3), and the check that says so notices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.structure.imports import ALLOWED, TOP, Sources, reached, read_sources, violations

ROOT = Path(__file__).parents[2]

#: What takes long to import, or is not there in a client's or a router's install.
HEAVY = {"torch", "transformers", "peft", "safetensors", "accelerate", "triton", "numpy"}


@pytest.fixture(scope="module")
def sources() -> Sources:
    return read_sources(ROOT)


def test_every_room_is_known(sources: Sources) -> None:
    rooms = {name.split(".")[1] for name in sources if "." in name}
    assert rooms == {TOP, *(room.split(".")[0] for room in ALLOWED)}
    assert len(sources) > 100


def test_imports_run_downhill(sources: Sources) -> None:
    assert violations(sources) == []


def test_the_router_never_reaches_torch(sources: Sources) -> None:
    others = reached(sources, {"router", "text", "wire", "types", "errors", "v1"}, lazy=True)
    assert {name: way for name, way in others.items() if name in HEAVY} == {}
    assert {"grpc", "tokenizers"} <= set(others), "the walk went all the way"


def test_the_client_reaches_neither_torch_nor_tokenizers(sources: Sources) -> None:
    others = reached(sources, {"client"}, lazy=True)
    banned = {*HEAVY, "tokenizers", "jinja2", "typer"}
    assert {name: way for name, way in others.items() if name in banned} == {}
    assert "grpc" in others


def test_the_command_line_starts_without_torch(sources: Sources) -> None:
    """It imports what a command needs when the command runs."""
    others = reached(sources, {TOP}, lazy=False)
    banned = {*HEAVY, "tokenizers", "grpc"}
    assert {name: way for name, way in others.items() if name in banned} == {}
    assert "typer" in others


PLANTED = {
    "lorax_spec": "",
    "lorax_spec.types": "import enum",
    "lorax_spec.engine": "",
    "lorax_spec.engine.request": "from lorax_spec.types import Token",
    "lorax_spec.engine.core": "import torch\nfrom lorax_spec.kernels import noise\n"
    "from lorax_spec import __version__",
    "lorax_spec.kernels": "",
    "lorax_spec.kernels.noise": "import torch",
    "lorax_spec.router": "",
    "lorax_spec.router.server": "from lorax_spec.engine.request import TokenRequest",
    "lorax_spec.cli": "",
    "lorax_spec.cli.app": "def run():\n    from lorax_spec.engine.core import EngineCore",
}


def test_the_planted_house_is_in_order() -> None:
    assert violations(PLANTED) == []
    assert set(reached(PLANTED, {"router"}, lazy=True)) == {"enum"}
    assert set(reached(PLANTED, {"cli"}, lazy=False)) == set()
    assert set(reached(PLANTED, {"cli"}, lazy=True)) == {"torch"}


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("lorax_spec.kernels.noise", "from lorax_spec.types import Token"),
        ("lorax_spec.kernels.noise", "import lorax_spec.types"),
        ("lorax_spec.engine.core", "from lorax_spec.router import server"),
        ("lorax_spec.engine.core", "from lorax_spec import cli"),
        ("lorax_spec.engine.core", "from lorax_spec import Client"),
        ("lorax_spec.router.server", "from lorax_spec.engine.core import EngineCore"),
        ("lorax_spec.router.server", "from lorax_spec.engine import core"),
        (
            "lorax_spec.router.server",
            "def f():\n    if True:\n        import lorax_spec.engine.core",
        ),
        ("lorax_spec.router.server", "from lorax_spec.cli.app import run"),
        ("lorax_spec.router.server", "from ..engine import core"),
        ("lorax_spec.cli.app", "from . import other"),
        ("lorax_spec.newroom.core", "from lorax_spec.types import Token"),
    ],
)
def test_a_planted_violation_is_caught(module: str, line: str) -> None:
    house = {**PLANTED, module: PLANTED.get(module, "") + "\n" + line}
    (violation,) = violations(house)
    assert violation.startswith(module)


@pytest.mark.parametrize(
    ("module", "line", "caught"),
    [
        ("lorax_spec.router.server", "import torch.nn", True),
        (
            "lorax_spec.router.server",
            "class A:\n    def f(self):\n        from torch import nn",
            True,
        ),
        ("lorax_spec.router.server", "try:\n    import torch\nexcept ImportError: pass", True),
        ("lorax_spec.types", "from torch import nn", True),
        ("lorax_spec.engine", "import torch", True),
        ("lorax_spec", "import torch", True),
        ("lorax_spec.types", "if TYPE_CHECKING:\n    import torch", False),
        ("lorax_spec.types", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch", True),
    ],
)
def test_a_planted_way_to_torch_is_found(module: str, line: str, caught: bool) -> None:
    """Through plain data, through packages on the way, and inside functions."""
    house = {**PLANTED, module: PLANTED[module] + "\n" + line}
    assert ("torch" in reached(house, {"router"}, lazy=True)) == caught
