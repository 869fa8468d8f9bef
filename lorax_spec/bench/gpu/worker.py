"""A process that runs the parts, and another where it did not survive one.

A kernel that reads where nothing is takes its whole process' GPU along, and one that never ends
cannot be interrupted: neither may cost the parts that follow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

from lorax_spec.bench.gpu.figures import Finding
from lorax_spec.bench.gpu.parts import Part
from lorax_spec.bench.gpu.sizes import Target
from lorax_spec.bench.widening.shape import Variant

#: A part looks at its clock between two measurements: so much over its share it is cut, and so
#: many seconds later, where it does not listen, its process ends.
_GRACE, _DEAF_SECONDS = 1.25, 10.0
#: In which a process has imported what it needs.
_START_SECONDS = 120.0
_BROKEN = 3


@dataclass(frozen=True)
class Setting:
    """What a process makes its stage of.  ``parts``: the module whose PARTS it knows."""

    target: Target
    variant: Variant
    dry: bool
    seed: int
    logs: Path
    parts: str = "lorax_spec.bench.gpu.parts"


def run_all(
    parts: Sequence[Part],
    setting: Setting,
    seconds: float,
    begun: Callable[[Part], None] = lambda part: None,
) -> Iterator[Finding]:
    """Time that a part leaves over goes to those after it.  ``begun`` hears of each."""
    ends = time.perf_counter() + seconds
    worker = Worker(setting)
    try:
        for index, part in enumerate(parts):
            begun(part)
            worker.start()
            left = ends - time.perf_counter()
            weight = part.weight / sum(one.weight for one in parts[index:])
            share = max(0.0, left) * weight
            yield worker.run(part, share, min(share * _GRACE, left))
    finally:
        worker.close()


class Worker:
    """Its process begins with the first part that is run."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._running: tuple[SpawnProcess, Connection] | None = None

    def run(self, part: Part, share: float, limit: float) -> Finding:
        """Whatever becomes of the process, there is a finding."""
        began = time.perf_counter()
        process, connection = self.start()
        try:
            connection.send((part.name, share, limit))
            if connection.poll(max(0.0, limit) + _DEAF_SECONDS):
                finding: Finding = connection.recv()
                if finding.error and not _goes_on(connection):
                    process.kill()
                    self.close()
                return finding
            process.kill()
            error = "it did not end when it was cut; its process was killed"
        except (EOFError, OSError):
            process.join(_DEAF_SECONDS)
            error = f"its process ended with status {process.exitcode}"
        self.close()
        return Finding(part.name, share, time.perf_counter() - began, error=error)

    def close(self) -> None:
        if self._running is None:
            return
        process, connection = self._running
        self._running = None
        connection.close()
        process.join(_DEAF_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()

    def start(self) -> tuple[SpawnProcess, Connection]:
        """Where none is there; returns when it is ready, or never will be."""
        if self._running is None:
            context = get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, self._setting))
            process.start()
            theirs.close()
            self._running = process, ours
            with suppress(EOFError, OSError):  # whoever asks it something finds out
                if ours.poll(_START_SECONDS):
                    ours.recv()
        return self._running


def _goes_on(connection: Connection) -> bool:
    """Whether the process says, after a part that failed, that it can run another."""
    try:
        return connection.poll(_DEAF_SECONDS) and bool(connection.recv())
    except (EOFError, OSError):
        return False


def _serve(connection: Connection, setting: Setting) -> None:
    """Run the parts that are named, until nobody asks any more."""
    import torch
    from transformers.utils import logging

    from lorax_spec.bench.gpu.running import is_broken, run
    from lorax_spec.bench.gpu.stage import Stage

    logging.disable_progress_bar()
    if setting.dry:
        torch.set_num_threads(1)
    parts: dict[str, Part] = {p.name: p for p in import_module(setting.parts).PARTS}
    with TemporaryDirectory(prefix="gpu-check-") as folder:
        stage = Stage(
            setting.target, setting.variant, setting.dry, Path(folder), setting.logs, setting.seed
        )
        connection.send(True)
        while True:
            try:
                name, share, limit = connection.recv()
            except EOFError:
                break
            finding = run(parts[name], stage, share, limit)
            connection.send(finding)
            if not finding.error:
                continue
            if is_broken(stage.device):
                rmtree(folder, ignore_errors=True)
                os._exit(_BROKEN)  # nothing that ends in an orderly way can, from here
            # It may have been stopped in the middle of a step.
            stage.discard_core()
            connection.send(True)
        stage.discard_core()
