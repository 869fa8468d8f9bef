"""The GPU tests, in a process of their own; and the kernels under compute-sanitizer."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from lorax_spec.bench.gpu.figures import Figure
from lorax_spec.bench.gpu.stage import Stage

ROOT = Path(__file__).resolve().parents[3]
_KERNELS = "tests/kernels/triton"
_COUNTED = re.compile(r"(\d+) (failed|error|errors|passed|skipped)\b")
_SANITIZER_SECONDS = 45.0
#: Seconds in which tests are found, where they are not run.
_COLLECTING = 60.0
_MARKED = "mark.gpu"
#: pytest's status where it collected none.
_NO_TESTS = 5
_AT_ONCE = "8"


@dataclass(frozen=True)
class Ran:
    """``status`` None: it was cut."""

    status: int | None
    output: str

    def count(self, *outcomes: str) -> int:
        """Of the last summary."""
        found = {word: int(number) for number, word in _COUNTED.findall(self.output[-2000:])}
        return sum(found.get(outcome, 0) for outcome in outcomes)

    @property
    def last_line(self) -> str:
        lines = [line for line in self.output.splitlines() if line.strip()]
        return lines[-1].strip("= ") if lines else "it said nothing"


def figures(stage: Stage) -> Iterator[Figure]:
    """Without a GPU tests are collected only.  Raises RuntimeError where there are no tests."""
    if not (ROOT / "tests").is_dir():
        raise RuntimeError(f"no tests beside the package in {ROOT}")
    if find_spec("pytest") is None or find_spec("hypothesis") is None:
        raise RuntimeError("pytest or hypothesis is missing")
    suites = {"kernels on the GPU": [_KERNELS], "tests marked gpu": ["-m", "gpu", *_marked()]}
    if stage.dry:
        suites = {"GPU tests, not run": [_KERNELS, *_marked()]}
    for index, (name, arguments) in enumerate(suites.items()):
        seconds = (stage.share.left - _SANITIZER_SECONDS) / (len(suites) - index)
        ran = run(_pytest(arguments, stage.dry), _COLLECTING if stage.dry else seconds)
        stage.logs.mkdir(parents=True, exist_ok=True)
        log = stage.logs / f"{re.sub('[^a-zA-Z]+', '-', name)}.log"
        log.write_text(ran.output, encoding="utf-8")
        faults = ran.count("failed", "error", "errors")
        if ran.status not in (None, 0, 1, _NO_TESTS):
            faults = max(1, faults)
        yield Figure(f"{name}: failures", faults, "", 0, at_most=True, note=_said(ran))
    if binary := shutil.which("compute-sanitizer"):
        small = [sys.executable, "-m", "lorax_spec.bench.gpu.kernels"]
        ran = run([binary, "--tool", "memcheck", "--error-exitcode", "9", *small], stage.share.left)
        faults = 0 if ran.status in (None, 0) else 1
        yield Figure("compute-sanitizer: faults", faults, "", 0, at_most=True, note=_said(ran))


def _said(ran: Ran) -> str:
    if ran.status is None:
        return f"cut for want of time; so far: {ran.last_line}"
    return ran.last_line


def run(command: Sequence[str], seconds: float) -> Ran:
    """With all that it starts, ended after so many seconds."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=max(seconds, 1.0))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return Ran(None, output)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return Ran(process.returncode, output)


def _pytest(arguments: Sequence[str], collect_only: bool) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-q", "--continue-on-collection-errors"]
    if find_spec("pytest_timeout") is None:  # pyproject.toml's strictness would end it at once
        command += ["-o", "addopts=--strict-markers"]
    if collect_only:
        command.append("--collect-only")
    elif find_spec("xdist"):  # kernels compile side by side, and a fault breaks one process' GPU
        command += ["-n", _AT_ONCE]
    return [*command, *arguments]


def _marked() -> list[str]:
    """Files that have such tests; others may need packages that are not here."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(f.relative_to(ROOT)) for f in files if _MARKED in f.read_text(encoding="utf-8")]
