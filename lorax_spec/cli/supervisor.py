"""Starts the worker and the router, watches both, and ends them in the right order."""

from __future__ import annotations

import asyncio
import logging
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from lorax_spec.cli.child import Child
from lorax_spec.config import ServeOptions, Side, arguments

logger = logging.getLogger(__name__)

#: Seconds beyond the drain that a process gets to end before it is killed.
_GRACE = 10.0


class Supervisor:
    """One worker and one router; the worker's address is the same after a restart."""

    def __init__(
        self,
        options: ServeOptions,
        on_ready: Callable[[str, str], None],
        logs: IO[bytes] | None = None,
    ) -> None:
        """``on_ready`` hears, once, the addresses of gRPC and HTTP when both processes are up;
        ``logs`` takes what they write to stderr, which else is ours."""
        self._options = options
        self._on_ready = on_ready
        self._folder = tempfile.TemporaryDirectory(prefix="lorax-spec-")
        self._worker_address = f"unix:{Path(self._folder.name) / 'worker.sock'}"
        self._stopping = asyncio.Event()
        self._up: set[str] = set()
        self._addresses: dict[str, str] = {}
        self._announced = False
        self._worker = Child("worker", self._worker_command, self._worker_ready, logs)
        self._router = Child("router", self._router_command, self._router_ready, logs)

    async def serve(self) -> int:
        """Serve until ``stop``, SIGTERM or SIGINT; a second time does not wait for the drain.
        SIGHUP has the router read its API keys again.

        Returns the exit status: 0 after a drain, a child's own where it could not start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        if self._options.api_key_file is not None:
            loop.add_signal_handler(signal.SIGHUP, self._reload)
        with self._folder:
            return await self._serve()

    def _reload(self) -> None:
        """A router that is not up yet would die of it, and reads its keys anyway."""
        if "router" in self._up:
            self._router.tell(signal.SIGHUP)

    def stop(self) -> None:
        if self._stopping.is_set():
            logger.warning("asked twice: not waiting for running requests")
            self._router.end(signal.SIGKILL)
            self._worker.end(signal.SIGKILL)
        else:
            logger.info("ending after the running requests; ask again to end at once")
            self._stopping.set()

    async def _serve(self) -> int:
        worker = asyncio.create_task(self._worker.watch())
        router = asyncio.create_task(self._router.watch())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({worker, router, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        failed = next((task.result() or 1 for task in (worker, router) if task.done()), 0)
        await self._end(self._router, router)
        await self._end(self._worker, worker)
        return failed

    async def _end(self, child: Child, watch: asyncio.Task[int]) -> None:
        child.end()
        done, _ = await asyncio.wait({watch}, timeout=self._options.drain_timeout + _GRACE)
        if not done:
            logger.error("it does not end; killing it")
            child.end(signal.SIGKILL)
            await watch

    def _worker_command(self) -> list[str]:
        address = ["--listen", self._worker_address, "--supervised"]
        return ["worker", *address, *arguments(self._options, Side.WORKER)]

    def _router_command(self) -> list[str]:
        """A restarted router takes the ports that clients know."""
        known: dict[str, Any] = {
            option: int(self._addresses[key].rpartition(":")[2])
            for key, option in (("grpc", "grpc_port"), ("http", "port"))
            if key in self._addresses
        }
        options = replace(self._options, **known)
        words = ["--worker", self._worker_address, "--supervised"]
        return ["router", *words, *arguments(options, Side.ROUTER)]

    def _worker_ready(self, address: str) -> None:
        logger.info("the worker is up")
        self._ready("worker")

    def _router_ready(self, addresses: str) -> None:
        self._addresses = dict(pair.split("=", 1) for pair in addresses.split())
        logger.info("the router is up: %s", addresses)
        self._ready("router")

    def _ready(self, name: str) -> None:
        self._up.add(name)
        if self._up == {"worker", "router"} and not self._announced:
            self._announced = True
            self._on_ready(self._addresses["grpc"], self._addresses["http"])
