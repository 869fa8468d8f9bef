"""The images, really built and run.  Left out where their base is not at hand: to make one takes
minutes and a mirror of Debian, and the images gigabytes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What `docker/smoke.sh` keeps, from a run before.
SMOKE_DIR = os.environ.get("SMOKE_DIR", "")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.geteuid() != 0, reason="a chroot needs root")
@pytest.mark.skipif(shutil.which("buildah") is None, reason="buildah is not installed")
@pytest.mark.skipif(
    not SMOKE_DIR or not Path(SMOKE_DIR, "storage").is_dir(),
    reason="SMOKE_DIR names no folder of a `make docker-smoke` before",
)
def test_both_images_build_and_run() -> None:
    done = subprocess.run(
        [ROOT / "docker" / "smoke.sh"], capture_output=True, text=True, timeout=1700
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("--> all is well\n")
