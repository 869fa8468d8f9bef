"""What the README says, done."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer import Context
from typer.core import TyperGroup
from typer.main import get_command

from lorax_spec.cli.app import app
from tests.cli.processes import ENVIRONMENT, Server, run

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]


def test_every_command_it_names_is_there() -> None:
    commands = set(re.findall(r"^    lorax-spec (\w+)", README.read_text(), re.MULTILINE))
    assert commands == {"doctor", "serve", "generate", "train", "bench", "adapters"}
    for command in commands:
        assert run(command, "--help").returncode == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_a_page_gives_a_command_is_one(page: Path) -> None:
    for line in re.findall(r"^(?:    |\$ )(lorax-spec .*)", page.read_text(), re.MULTILINE):
        words = shlex.split(line, comments=True)[1:]
        command: Any = get_command(app)
        while isinstance(command, TyperGroup):
            # An option in a command's place belongs to the one that is meant without a name.
            name = "all" if not words or words[0].startswith("-") else words.pop(0)
            command = command.get_command(Context(command), name)
            assert command is not None, line
        flags = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= flags, line


def test_every_page_it_links_to_is_there() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^):#]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def test_every_folder_it_names_is_there() -> None:
    named = re.findall(r"^\| `(\S+)/` \|", README.read_text(), re.MULTILINE)
    assert named
    assert all((README.parent / folder).is_dir() for folder in named)


@pytest.mark.slow
def test_its_example_runs() -> None:
    example = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert example
    with Server("--speculative-tokens", "3") as server:
        source = example[1].replace("localhost:50051", server.grpc)
        done = subprocess.run(
            [sys.executable, "-c", source], capture_output=True, text=True, env=ENVIRONMENT
        )
    assert done.returncode == 0, done.stderr
    assert "guesses accepted" in done.stdout
    assert "demo/nobody" in done.stdout
