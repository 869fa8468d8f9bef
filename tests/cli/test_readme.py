"""What the README says, done."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import ENVIRONMENT, Server, run

README = Path(__file__).parents[2] / "README.md"


def test_every_command_it_names_is_there() -> None:
    commands = set(re.findall(r"^    lorax-spec (\w+)", README.read_text(), re.MULTILINE))
    assert commands == {"doctor", "serve", "generate", "adapters"}
    for command in commands:
        assert run(command, "--help").returncode == 0


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
