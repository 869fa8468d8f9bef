"""A router process: the public gRPC server, wired to its workers."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lorax_spec.errors import LoraxSpecError, Unavailable
from lorax_spec.router.adapters import Adapters
from lorax_spec.router.admission import Admission
from lorax_spec.router.frontend import Frontend
from lorax_spec.router.grpc_auth import Arrivals, KeysAsked
from lorax_spec.router.grpc_reading import Readable
from lorax_spec.router.keys import KeyRing
from lorax_spec.router.metrics import Metrics
from lorax_spec.router.observation import Observation
from lorax_spec.router.pool import WorkerPool
from lorax_spec.router.service import LoraxSpecService
from lorax_spec.router.state import note_moves, note_state
from lorax_spec.router.tls import grpc_tls, uvicorn_tls
from lorax_spec.router.web.app import create_app
from lorax_spec.router.web.observe import metrics_router
from lorax_spec.router.web.outside import outside
from lorax_spec.router.web.serving import HttpServer
from lorax_spec.tracing import Tracing
from lorax_spec.types import BASE_MODEL, AdapterRef
from lorax_spec.v1 import lorax_spec_pb2 as pb
from lorax_spec.v1 import lorax_spec_pb2_grpc

logger = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["LoraxSpec"].full_name

#: Seconds between two attempts to load the default adapter.
_RETRY = 1.0

_OPTIONS = [
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5000),
    ("grpc.keepalive_permit_without_calls", 1),
]


@dataclass(frozen=True)
class RouterConfig:
    #: Each ``host:port`` or ``unix:/path``.
    workers: tuple[str, ...]
    #: Requests that may run or wait at one time.
    max_concurrent_requests: int
    host: str = "127.0.0.1"
    #: 0: a free one.
    grpc_port: int = 50051
    #: 0: a free one; None: no HTTP.
    http_port: int | None = None
    #: A unix socket to listen on as well.
    uds: str | None = None
    #: The adapter of requests that name none.
    adapter_id: str | None = None
    #: Default: the model's folder, as the worker names it.
    tokenizer_path: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    #: Callers need a certificate signed by this one.
    tls_ca: Path | None = None
    #: Hashed keys, of which callers then need one; None: nobody does.
    api_key_file: Path | None = None
    #: Whose pages may call over HTTP.
    cors_origins: tuple[str, ...] = ()
    #: Of a request, over either protocol.
    max_request_bytes: int = 4 * 2**20
    #: Where traces are sent by OTLP; None: none are made.
    otlp_endpoint: str | None = None
    #: Seconds a request waits while no worker is there.
    worker_patience: float = 30.0
    #: Seconds that running requests get to finish after SIGTERM; None: as long as they take.
    drain_timeout: float | None = None


def serve_router(config: RouterConfig, on_ready: Callable[[str, str], None]) -> int:
    """Serve until SIGTERM or SIGINT, let running requests finish, return the exit status.

    ``on_ready`` hears ``host:port`` of gRPC and of HTTP (empty without it) once a worker is
    connected.  SIGHUP has the API keys read again.  Raises ValueError for options that do not
    belong together, for a broken file of keys and for traces that cannot be made, OSError where a
    file cannot be read or the HTTP port is taken, and RuntimeError where the gRPC port is.
    """
    return asyncio.run(_serve(config, on_ready))


async def _serve(config: RouterConfig, on_ready: Callable[[str, str], None]) -> int:
    terminated = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, terminated.set)
    router = Router(config)
    if router.keys is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, router.keys.reload)
    address = await router.start()
    serving = asyncio.create_task(router.keep_health(lambda: on_ready(address, router.http)))
    stop = asyncio.create_task(terminated.wait())
    await asyncio.wait((serving, stop), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if serving.done():
        await router.stop()
        serving.result()
    serving.cancel()
    await router.drain()
    await router.stop()
    return 0


class Router:
    """The parts of a router, on the running event loop."""

    def __init__(self, config: RouterConfig) -> None:
        self._config = config
        self._default = AdapterRef(config.adapter_id) if config.adapter_id else None
        self.metrics = Metrics()
        self.keys = None
        if config.api_key_file is not None:
            self.keys = KeyRing(config.api_key_file, self.metrics.refused)
        self._tracing = None
        if config.otlp_endpoint is not None:
            self._tracing = Tracing(config.otlp_endpoint, "lorax-spec-router")
        observation = Observation(self.metrics, self._tracing)
        self.pool = WorkerPool(
            config.workers, config.worker_patience, partial(note_moves, self.metrics)
        )
        self.admission = Admission(config.max_concurrent_requests)
        self.metrics.before(lambda: note_state(self.metrics, self.pool, self.admission))
        self.frontend = Frontend(self.pool, self.admission, self._default, observation)
        self.adapters = Adapters(self.pool)
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._server = grpc.aio.server(
            interceptors=[Arrivals(), *([KeysAsked(self.keys)] if self.keys else []), Readable()],
            options=[*_OPTIONS, ("grpc.max_receive_message_length", config.max_request_bytes)],
        )
        self._http: HttpServer | None = None

    async def start(self) -> str:
        """Listen and look for workers; returns ``host:port``."""
        service = LoraxSpecService(self.frontend, self.adapters)
        lorax_spec_pb2_grpc.add_LoraxSpecServicer_to_server(service, self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        await self._set_health(False)
        port = self._bind()
        await self._server.start()
        if self._config.http_port is not None:
            self._http = self._serve_http(self._config.http_port)
        self.pool.start()
        return f"{self._config.host}:{port}"

    @property
    def http(self) -> str:
        """``host:port`` of HTTP; empty without it."""
        return f"{self._config.host}:{self._http.port}" if self._http else ""

    async def keep_health(self, on_ready: Callable[[], None]) -> None:
        """Load the tokenizer once a worker is there; then tell health, until cancelled.

        Raises FileNotFoundError where the model's folder has no tokenizer here, and ValueError
        where the default adapter cannot be served.
        """
        while self.pool.info is None:
            await self.pool.change.wait()
        await self.frontend.load_text(self._config.tokenizer_path or self.pool.info.model_path)
        await self._load_default()
        announced = False
        while True:
            change, ready = self.pool.change, self.frontend.ready
            await self._set_health(ready)
            if ready and not announced:
                announced = True
                on_ready()
            await change.wait()

    async def _load_default(self) -> None:
        """Every request that names no adapter would fail where this does."""
        default = self._default
        if default is None or default.adapter_id == BASE_MODEL:
            return
        request = pb.LoadAdapterRequest(
            adapter_id=default.adapter_id, adapter_source=default.source or None
        )
        while True:
            change = self.pool.change
            try:
                await self.pool.everywhere(lambda stub: stub.LoadAdapter(request))
                return
            except Unavailable as error:  # its source or the worker; both may come back
                logger.warning("the default adapter is not there yet: %s", error.message)
            except LoraxSpecError as error:
                raise ValueError(f"--adapter-id: {error.message}") from error
            with suppress(TimeoutError):
                await asyncio.wait_for(change.wait(), _RETRY)

    async def drain(self) -> None:
        """Refuse new requests and wait for those that run."""
        self.admission.draining = True
        await self._health.enter_graceful_shutdown()
        loop = asyncio.get_running_loop()
        timeout = self._config.drain_timeout
        end = None if timeout is None else loop.time() + timeout
        while self.admission.active and (end is None or loop.time() < end):
            await asyncio.sleep(0.02)
        if self.admission.active:
            logger.warning("%d requests did not finish in time", self.admission.active)

    async def stop(self) -> None:
        if self._http is not None:
            await self._http.stop()
        await self._server.stop(grace=1)
        self.frontend.close()
        await self.pool.stop()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    def _serve_http(self, port: int) -> HttpServer:
        config = self._config
        app = create_app(self.frontend, self.adapters, lambda: self.admission.draining, self.keys)
        app.include_router(metrics_router(self.metrics))
        tls = uvicorn_tls(config.tls_cert, config.tls_key, config.tls_ca)
        reached = outside(
            app,
            self.keys,
            config.cors_origins,
            config.max_request_bytes,
            self.metrics.refused_http,
        )
        server = HttpServer(reached, config.host, port, tls)
        server.start()
        return server

    def _bind(self) -> int:
        config = self._config
        if config.uds:
            Path(config.uds).unlink(missing_ok=True)
            self._server.add_insecure_port(f"unix:{config.uds}")
        address = f"{config.host}:{config.grpc_port}"
        credentials = grpc_tls(config.tls_cert, config.tls_key, config.tls_ca)
        if credentials is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, credentials)

    async def _set_health(self, serving: bool) -> None:
        response = health_pb2.HealthCheckResponse
        status = response.SERVING if serving else response.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)
