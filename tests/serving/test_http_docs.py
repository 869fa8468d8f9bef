"""What docs/http.md and docs/docker.md show of calls, done."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.processes import Server
from tests.serving.clients import environment

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "http.md").read_text()
CALLS = re.compile(r"^ *(curl (?:.*\\\n)*.*)", re.MULTILINE)
CURLS = [*CALLS.findall(TEXT), *CALLS.findall((DOCS / "docker.md").read_text())]
PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_every_call_of_curl(server: Server) -> None:
    assert len(CURLS) == 9
    for line in CURLS:
        command = line.replace("localhost:8080", server.http).replace("curl ", "curl --fail ", 1)
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert done.stdout.startswith(("{", "[{", "data: {")), (command, done.stdout)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda text: text.split()[1])
def test_every_program(server: Server, program: str) -> None:
    python = environment.python() if "lorax" in program.split("\n")[0] else sys.executable
    program = program.replace("localhost:8080", server.http)
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 20
