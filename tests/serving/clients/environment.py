"""An environment of their own for clients that cannot live in ours."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_HERE = Path(__file__).parent
_REQUIREMENTS = _HERE / "requirements.txt"
_ROOT = _HERE.parents[2] / "build" / "clients"


def python() -> Path:
    """Its interpreter.  It is made once, by whoever comes first.

    Where nothing can be installed, the test fails on CI and is skipped elsewhere.
    """
    version = f"{sys.version_info[:2]}".encode()
    digest = hashlib.sha256(_REQUIREMENTS.read_bytes() + version).hexdigest()[:12]
    folder = _ROOT / digest
    _ROOT.mkdir(parents=True, exist_ok=True)
    with (_ROOT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _make(folder)
            (folder / "ready").touch()
    return folder / "bin" / "python"


def run(script: str, *arguments: str, timeout: float = 120) -> dict[str, Any]:
    """What a script of this folder, in that environment, prints: one JSON object."""
    done = subprocess.run(
        [python(), _HERE / script, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": "", "NO_PROXY": "*"},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _make(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "-r", _REQUIREMENTS]
    installed = subprocess.run(command, capture_output=True, text=True, timeout=240)
    if installed.returncode == 0:
        return
    reason = f"pip cannot install {_REQUIREMENTS}: {installed.stderr.strip()[-500:]}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
