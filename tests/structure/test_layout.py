"""The folders are those of DESIGN, section 3, and every file stays small."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES = 400
#: Names that say nothing of what is inside.
NAMELESS = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}


def python_files() -> list[Path]:
    """Ours: neither generated, nor somebody's virtual environment."""
    folders = [ROOT / name for name in ("lorax_spec", "adapters", "kernels", "router", "tests")]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    return [file for file in files if ROOT / "lorax_spec" / "v1" not in file.parents]


def too_long(files: list[Path]) -> dict[str, int]:
    lengths = {str(file): len(file.read_text().splitlines()) for file in files}
    return {name: length for name, length in lengths.items() if length > MOST_LINES}


def nameless(files: list[Path]) -> list[str]:
    return [str(file) for file in files if NAMELESS & {file.stem, file.parent.name}]


def test_no_file_is_long() -> None:
    assert too_long(python_files()) == {}


def test_no_file_is_nameless() -> None:
    assert nameless(python_files()) == []


def test_long_and_nameless_files_are_noticed(tmp_path: Path) -> None:
    long, utils = tmp_path / "long.py", tmp_path / "utils" / "fine.py"
    utils.parent.mkdir()
    long.write_text("\n" * (MOST_LINES + 1))
    utils.write_text("\n" * MOST_LINES)
    assert too_long([long, utils]) == {str(long): MOST_LINES + 1}
    assert nameless([long, utils]) == [str(utils)]


@pytest.mark.parametrize("room", ["adapters", "kernels", "router"])
def test_rooms_at_the_root_are_linked_into_the_package(room: str) -> None:
    link = ROOT / "lorax_spec" / room
    assert link.is_symlink()
    assert link.readlink() == Path("..", room)
    assert (ROOT / room / "__init__.py").is_file()


def test_the_links_are_committed() -> None:
    """As links (mode 120000), so that a clone has them."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "--stage",
            "lorax_spec/adapters",
            "lorax_spec/kernels",
            "lorax_spec/router",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["120000"] * 3


def test_kernels_has_a_docstring_and_nothing_else() -> None:
    """transformers probes for a package of that name and would run what stands there."""
    (statement,) = ast.parse((ROOT / "kernels" / "__init__.py").read_text()).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Constant)
    assert isinstance(statement.value.value, str)
