"""Engines in processes of their own: asked, timed, and heard when they fail."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lorax_spec.bench.peer_process import PeerProcess
from lorax_spec.bench.workload import Prompt
from lorax_spec.errors import Unavailable

_ECHO = """
import json, sys
print("a library says hello")
print(json.dumps({"version": "1." + sys.argv[3]}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    tokens = asked["ids"][: asked["new_tokens"]] + asked["ends"]
    print(json.dumps({"tokens": tokens, "seconds": 0.5, "cpu_seconds": 0.25}), flush=True)
"""


def peer(folder: Path, script: str) -> PeerProcess:
    path = folder / "peer.py"
    path.write_text(script)
    return PeerProcess(sys.executable, path, str(folder), str(folder), 7, [2])


def test_prompts_go_one_by_one_and_times_add_up(tmp_path: Path) -> None:
    with peer(tmp_path, _ECHO) as process:
        assert process.version == "1.7"
        run = process([Prompt("code", (5, 6, 7), 2), Prompt("code", (8,), 9)])
    assert run.outputs == ((5, 6, 2), (8, 2))
    assert (run.seconds, run.cpu_seconds) == (1.0, 0.5)


def test_a_peer_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No module named 'nowhere'"):
        peer(tmp_path, "import nowhere")


def test_a_peer_that_dies_over_a_request_is_an_error(tmp_path: Path) -> None:
    dying = _ECHO.replace("asked = json.loads(line)", "raise SystemExit('out of memory')")
    with peer(tmp_path, dying) as process, pytest.raises(Unavailable, match="out of memory"):
        process([Prompt("code", (5,), 2)])
