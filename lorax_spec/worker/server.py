"""A worker process: an engine, its thread, and a gRPC server in front."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lorax_spec.tracing import Tracing
from lorax_spec.v1 import worker_pb2, worker_pb2_grpc
from lorax_spec.worker.core import Core, CoreFactory
from lorax_spec.worker.driver import Driver
from lorax_spec.worker.service import WorkerService

logger = logging.getLogger(__name__)

SERVICE = worker_pb2.DESCRIPTOR.services_by_name["Worker"].full_name

#: Prompts of a long context go down in one message.
_MAX_MESSAGE_BYTES = 64 * 2**20

_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
]


@dataclass(frozen=True)
class WorkerConfig:
    """``listen`` is ``host:port`` (port 0: a free one) or ``unix:/path``."""

    listen: str = "127.0.0.1:0"
    #: Seconds that running requests get to finish after SIGTERM; None: as long as they take.
    drain_timeout: float | None = None
    #: Where traces are sent by OTLP; None: none are made.
    otlp_endpoint: str | None = None


def serve_worker(
    config: WorkerConfig, factory: CoreFactory, on_ready: Callable[[str], None]
) -> int:
    """Serve until SIGTERM or SIGINT and return the process's exit status.

    ``factory`` makes the engine, on this thread.  ``on_ready`` hears the address that routers
    connect to.  The status is 0 after a drain and 1 where the engine broke.  Raises ValueError
    where traces are asked for that cannot be made.
    """
    core = factory()
    # What is there now stays: to look through all of it again would take 0.2 s of some step.
    gc.collect()
    gc.freeze()
    try:
        return asyncio.run(_serve(config, core, on_ready))
    finally:
        core.close()


async def _serve(config: WorkerConfig, core: Core, on_ready: Callable[[str], None]) -> int:
    loop = asyncio.get_running_loop()
    broken: asyncio.Future[BaseException | None] = loop.create_future()
    terminated = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, terminated.set)

    driver = Driver(
        core,
        loop,
        on_load=lambda load: service.publish_load(load),
        on_exit=broken.set_result,
        on_moves=lambda moves: service.publish_moves(moves),
    )
    tracing = None
    if config.otlp_endpoint is not None:
        tracing = Tracing(config.otlp_endpoint, "lorax-spec-worker")
    service = WorkerService(core, driver, tracing)
    server = grpc.aio.server(options=_OPTIONS)
    worker_pb2_grpc.add_WorkerServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    checks = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection(
        (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    address = bind(server, config.listen)
    await server.start()
    for name in ("", SERVICE):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    driver.start()
    on_ready(address)

    stop = asyncio.create_task(terminated.wait())
    await asyncio.wait((stop, broken), return_when=asyncio.FIRST_COMPLETED)
    service.draining = True
    await checks.enter_graceful_shutdown()
    if not broken.done():
        await _until_idle(driver, broken, config.drain_timeout)
        driver.stop()
    failure = await broken
    service.end_streams()
    await server.stop(grace=2)
    stop.cancel()
    if tracing is not None:
        await asyncio.to_thread(tracing.close)
    return 0 if failure is None else 1


def bind(server: grpc.aio.Server, listen: str) -> str:
    """Listen there, without TLS, and return the address; raises RuntimeError where it is taken."""
    if listen.startswith("unix:"):
        Path(listen.removeprefix("unix:")).unlink(missing_ok=True)
        server.add_insecure_port(listen)
        return listen
    port = server.add_insecure_port(listen)
    return f"{listen.rpartition(':')[0]}:{port}"


async def _until_idle(
    driver: Driver, broken: asyncio.Future[BaseException | None], timeout: float | None
) -> None:
    loop = asyncio.get_running_loop()
    end = None if timeout is None else loop.time() + timeout
    while not driver.idle and not broken.done():
        if end is not None and loop.time() > end:
            logger.warning("requests still run after %.0f s; ending them", timeout)
            return
        await asyncio.sleep(0.02)
