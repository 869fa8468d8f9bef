"""One watched process: started, waited for until it is ready, restarted when it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO

logger = logging.getLogger(__name__)

#: Seconds before a restart: the first, the factor to the next, and the most.
_FIRST_PAUSE, _FACTOR, _LONGEST_PAUSE = 0.2, 2.0, 30.0

#: Seconds after which a process that ran counts as well, and its next restart as the first.
_WELL = 60.0

_READY = "ready "


class Child:
    """A command of ours that prints ``ready ...`` on stdout when it is up.

    Its stdin is a pipe from us, so that it notices when we are gone.
    """

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        on_ready: Callable[[str], None],
        logs: IO[bytes] | None = None,
    ) -> None:
        """``command`` is asked for the arguments at each start; ``on_ready`` hears what followed
        the word ready; ``logs`` takes its stderr, which else is ours."""
        self._name = name
        self._command = command
        self._on_ready = on_ready
        self._logs = logs
        self._process: Process | None = None
        self._was_ready = False
        self._ending = asyncio.Event()

    async def watch(self) -> int:
        """Keep it running; returns its status where it ends before it was ever ready, or after
        ``end``."""
        pause = _FIRST_PAUSE
        while True:
            started = time.monotonic()
            status = await self._run()
            if self._ending.is_set() or not self._was_ready:
                return status
            if time.monotonic() - started > _WELL:
                pause = _FIRST_PAUSE
            logger.warning(
                "the %s died (%s); starting it again in %.1f s", self._name, _cause(status), pause
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause)
                return 0
            pause = min(_LONGEST_PAUSE, pause * _FACTOR)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Ask it to end and do not start it again."""
        self._ending.set()
        self.tell(number)

    def tell(self, number: int) -> None:
        """Send it a signal that it goes on after; nothing where it is not running."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _run(self) -> int:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "lorax_spec.cli",
            *self._command(),
            stdin=PIPE,
            stdout=PIPE,
            stderr=self._logs,
            start_new_session=True,  # Ctrl-C is ours to pass on, in order
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        logger.info("the %s is process %d", self._name, self._process.pid)
        if self._ending.is_set():
            self.end()
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            text = line.decode(errors="replace").rstrip()
            if text.startswith(_READY):
                self._was_ready = True
                self._on_ready(text.removeprefix(_READY))
        return await self._process.wait()


def _cause(status: int) -> str:
    return f"status {status}" if status >= 0 else signal.Signals(-status).name
