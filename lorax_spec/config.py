"""Every option of the servers, once: field = flag + environment variable + default + help.

``--max-total-tokens`` is the field ``max_total_tokens`` and the variable
``LORAX_SPEC_MAX_TOTAL_TOKENS``; a flag wins over its variable.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints


class Side(enum.Flag):
    """Which process an option is for."""

    WORKER = enum.auto()
    ROUTER = enum.auto()
    SUPERVISOR = enum.auto()


@dataclass(frozen=True)
class Setting:
    """``topic`` is the heading under which help lists it."""

    side: Side
    topic: str
    help: str


@dataclass(frozen=True)
class Option:
    """A field of ``ServeOptions`` as the command line sees it."""

    name: str
    kind: Any
    default: Any
    setting: Setting

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "LORAX_SPEC_" + self.name.upper()


_MODEL, _ADAPTERS, _LIMITS, _NETWORK, _LOGS = (
    "Model and speculation",
    "Adapters",
    "Limits",
    "Network",
    "Logs",
)

_SOURCES = ("local", "hub", "s3")
_DTYPES = ("auto", "float32", "bfloat16", "float16")

#: Where a number is given, it is at least this.
_LEAST = {
    "speculative_tokens": 0,
    "lookup_min_match": 1,
    "lookup_pool_tokens": 0,
    "max_active_adapters": 1,
    "adapter_cache_bytes": 1,
    "adapter_refresh_s": 0,
    "adapter_cycle_time_s": 0,
    "adapter_host_bytes": 0,
    "max_input_length": 1,
    "max_total_tokens": 2,
    "max_batch_total_tokens": 1,
    "max_batch_prefill_tokens": 1,
    "max_concurrent_requests": 1,
    "max_request_bytes": 1024,
}


@dataclass(frozen=True)
class ServeOptions:
    """What ``serve`` is told.  None means: chosen from the machine and the model."""

    model_id: Annotated[
        str | None,
        Setting(Side.WORKER, _MODEL, "Folder or hub id of the model; left out: the embedded demo."),
    ] = None
    revision: Annotated[
        str | None,
        Setting(Side.WORKER, _MODEL, "Revision of the model, where it comes from the hub."),
    ] = None
    dtype: Annotated[str, Setting(Side.WORKER, _MODEL, "auto, float32, bfloat16 or float16.")] = (
        "auto"
    )
    device: Annotated[str, Setting(Side.WORKER, _MODEL, "auto, cpu, cuda or cuda:N.")] = "auto"
    quantize: Annotated[
        str | None, Setting(Side.WORKER, _MODEL, "int8, int4, fp8 or bitsandbytes (-nf4, -fp4).")
    ] = None
    kernels: Annotated[
        str,
        Setting(
            Side.WORKER,
            _MODEL,
            "What steps are computed with: torch; triton; auto: triton on CUDA.",
        ),
    ] = "auto"
    eager: Annotated[bool, Setting(Side.WORKER, _MODEL, "On CUDA: capture no graphs of steps.")] = (
        False
    )
    deterministic: Annotated[
        bool | None,
        Setting(
            Side.WORKER,
            _MODEL,
            "Same bits whatever else is in the batch; left out: where it is nearly free.",
        ),
    ] = None
    speculative_tokens: Annotated[
        int,
        Setting(
            Side.WORKER,
            _MODEL,
            "Most tokens to guess ahead where a request gives no number (0: 16); above 0, auto"
            " uses prompt lookup and the draft model too, not heads alone.",
        ),
    ] = 0
    lookup_min_match: Annotated[
        int, Setting(Side.WORKER, _MODEL, "Fewest tokens that prompt lookup takes for a match.")
    ] = 1
    lookup_max_match: Annotated[
        int, Setting(Side.WORKER, _MODEL, "Most tokens that prompt lookup compares.")
    ] = 16
    lookup_pool_tokens: Annotated[
        int,
        Setting(
            Side.WORKER,
            _MODEL,
            "Tokens of finished requests that prompt lookup remembers, per adapter and"
            " credentials; 0: none.",
        ),
    ] = 0
    draft_model_id: Annotated[
        str | None,
        Setting(
            Side.WORKER,
            _MODEL,
            "Folder or hub id of a smaller model with the same tokenizer that guesses ahead, for"
            " the methods draft_model and auto.",
        ),
    ] = None
    draft_model_revision: Annotated[
        str | None,
        Setting(Side.WORKER, _MODEL, "Its revision, where it comes from the hub."),
    ] = None
    adapter_id: Annotated[
        str | None,
        Setting(
            Side.ROUTER,
            _ADAPTERS,
            "Adapter of requests that name none; they opt out with __base_model__.",
        ),
    ] = None
    adapter_source: Annotated[
        str,
        Setting(
            Side.WORKER,
            _ADAPTERS,
            "Where adapters come from that lie in no local folder: hub or s3; local: from nowhere."
            " With a comma between them, requests may name any of them.",
        ),
    ] = "local"
    adapter_url: Annotated[
        tuple[str, ...],
        Setting(
            Side.WORKER,
            _ADAPTERS,
            "URL of an object store, such as s3://bucket/adapters, below which requests may name"
            " adapters; may be repeated.",
        ),
    ] = ()
    adapter_cache_dir: Annotated[
        Path | None,
        Setting(
            Side.WORKER,
            _ADAPTERS,
            "Folder for downloaded adapters; left out: ~/.cache/lorax-spec/adapters.",
        ),
    ] = None
    adapter_cache_bytes: Annotated[
        int, Setting(Side.WORKER, _ADAPTERS, "Most bytes that downloaded adapters take on disk.")
    ] = 20_000_000_000
    adapter_refresh_s: Annotated[
        float,
        Setting(
            Side.WORKER,
            _ADAPTERS,
            "Seconds after which it is asked anew what a branch holds, and whether a token may"
            " read it.",
        ),
    ] = 60.0
    adapter_root: Annotated[
        tuple[str, ...],
        Setting(
            Side.WORKER,
            _ADAPTERS,
            "Folder of adapter folders, or NAME=FOLDER to call them NAME/...; may be repeated.",
        ),
    ] = ()
    preloaded_adapter_ids: Annotated[
        tuple[str, ...],
        Setting(
            Side.WORKER,
            _ADAPTERS,
            "Adapters to load before the server is ready, and to keep on the device; several with"
            " commas between them, or repeated.",
        ),
    ] = ()
    max_active_adapters: Annotated[
        int, Setting(Side.WORKER, _ADAPTERS, "Most adapters on the device at one time.")
    ] = 1024
    adapter_memory_fraction: Annotated[
        float,
        Setting(Side.WORKER, _ADAPTERS, "Part of the device's memory that adapters may take."),
    ] = 0.1
    adapter_host_bytes: Annotated[
        int | None,
        Setting(
            Side.WORKER,
            _ADAPTERS,
            "Bytes of host memory for adapters that are not on the device; left out: as many as"
            " they may take there.",
        ),
    ] = None
    adapter_cycle_time_s: Annotated[
        float,
        Setting(
            Side.WORKER,
            _ADAPTERS,
            "Seconds after which an adapter in use makes room for those that wait for it.",
        ),
    ] = 2.0
    max_input_length: Annotated[
        int | None, Setting(Side.WORKER, _LIMITS, "Most tokens of a prompt.")
    ] = None
    max_total_tokens: Annotated[
        int | None,
        Setting(Side.WORKER, _LIMITS, "Most tokens of a prompt and its answer together."),
    ] = None
    max_batch_total_tokens: Annotated[
        int | None, Setting(Side.WORKER, _LIMITS, "Tokens that the KV cache holds.")
    ] = None
    max_batch_prefill_tokens: Annotated[
        int, Setting(Side.WORKER, _LIMITS, "Most prompt tokens computed in one step.")
    ] = 512
    max_concurrent_requests: Annotated[
        int,
        Setting(
            Side.ROUTER, _LIMITS, "Most requests taken at one time; more are told to come back."
        ),
    ] = 128
    host: Annotated[str, Setting(Side.ROUTER, _NETWORK, "Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Setting(Side.ROUTER, _NETWORK, "HTTP port; 0 takes a free one.")] = 8080
    grpc_port: Annotated[int, Setting(Side.ROUTER, _NETWORK, "gRPC port; 0 takes a free one.")] = (
        50051
    )
    uds: Annotated[
        str | None, Setting(Side.ROUTER, _NETWORK, "Unix socket to serve gRPC on as well.")
    ] = None
    tls_cert: Annotated[
        Path | None,
        Setting(Side.ROUTER, _NETWORK, "PEM certificate; with its key, both ports speak TLS only."),
    ] = None
    tls_key: Annotated[
        Path | None, Setting(Side.ROUTER, _NETWORK, "PEM key of the certificate.")
    ] = None
    tls_ca: Annotated[
        Path | None,
        Setting(
            Side.ROUTER, _NETWORK, "PEM authority that must have signed callers' certificates."
        ),
    ] = None
    api_key_file: Annotated[
        Path | None,
        Setting(
            Side.ROUTER | Side.SUPERVISOR,
            _NETWORK,
            "File of hashed keys (`lorax-spec keys`), one of which callers then need.",
        ),
    ] = None
    cors_origin: Annotated[
        tuple[str, ...],
        Setting(
            Side.ROUTER,
            _NETWORK,
            "Origin whose pages may call over HTTP; *: all; may be repeated.",
        ),
    ] = ()
    max_request_bytes: Annotated[
        int, Setting(Side.ROUTER, _LIMITS, "Most bytes of a request, over HTTP and gRPC.")
    ] = 4 * 2**20
    drain_timeout: Annotated[
        float,
        Setting(
            Side.ROUTER | Side.SUPERVISOR,
            _LIMITS,
            "Seconds that running requests get to finish after SIGTERM.",
        ),
    ] = 60.0
    json_output: Annotated[
        bool,
        Setting(
            Side.WORKER | Side.ROUTER | Side.SUPERVISOR, _LOGS, "Logs as JSON, one object per line."
        ),
    ] = False
    otlp_endpoint: Annotated[
        str | None,
        Setting(
            Side.WORKER | Side.ROUTER,
            _LOGS,
            "Collector to send OpenTelemetry traces to, such as http://127.0.0.1:4317.",
        ),
    ] = None

    def __post_init__(self) -> None:
        """Raises ``ValueError`` for what no process could make sense of."""
        if self.dtype not in _DTYPES:
            raise ValueError(f"--dtype {self.dtype}: one of {', '.join(_DTYPES)}")
        sources = adapter_sources(self.adapter_source)
        if "s3" in sources and not self.adapter_url:
            raise ValueError("--adapter-source s3: needs an --adapter-url")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"--{name.replace('_', '-')}: at least {least}")
        if self.lookup_max_match < self.lookup_min_match:
            raise ValueError("--lookup-max-match: at least --lookup-min-match")
        if self.draft_model_revision is not None and self.draft_model_id is None:
            raise ValueError("--draft-model-revision: needs a --draft-model-id")
        if not 0 < self.adapter_memory_fraction <= 1:
            raise ValueError("--adapter-memory-fraction: above 0, at most 1")
        for name in ("port", "grpc_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ValueError(f"--{name.replace('_', '-')}: a port is 0 to 65535")


def options_of(side: Side) -> list[Option]:
    """What ``side`` reads, in the order in which help lists it."""
    hints = get_type_hints(ServeOptions, include_extras=True)
    options = []
    for one in fields(ServeOptions):
        kind, setting = get_args(hints[one.name])
        if setting.side & side:
            options.append(Option(one.name, kind, one.default, setting))
    return options


def arguments(options: ServeOptions, side: Side) -> list[str]:
    """The command line that gives a process of ``side`` these options."""
    words: list[str] = []
    for one in options_of(side):
        value = getattr(options, one.name)
        if isinstance(value, bool):
            words.append(one.flag if value else one.flag.replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            words += [word for item in value for word in (one.flag, str(item))]
        elif value is not None:
            words += [one.flag, str(value)]
    return words


def adapter_ids(entries: tuple[str, ...]) -> tuple[str, ...]:
    """``--preloaded-adapter-ids`` read: each id once, in the order given."""
    ids = (one.strip() for entry in entries for one in entry.split(","))
    return tuple(dict.fromkeys(one for one in ids if one))


def adapter_sources(entry: str) -> tuple[str, ...]:
    """``--adapter-source`` read; raises ``ValueError`` for a source that there is not."""
    sources = tuple(one.strip() for one in entry.split(","))
    if unknown := [one for one in sources if one not in _SOURCES]:
        raise ValueError(f"--adapter-source {unknown[0]}: one of {', '.join(_SOURCES)}")
    return sources


def adapter_roots(entries: tuple[str, ...]) -> dict[str, Path]:
    """``--adapter-root`` read: id prefix -> folder; the prefix "" maps ids as they are.

    Raises ``ValueError`` for a folder that is not there and for a prefix given twice.
    """
    roots: dict[str, Path] = {}
    for entry in entries:
        prefix, separator, folder = entry.partition("=")
        if not separator:
            prefix, folder = "", entry
        if prefix in roots:
            raise ValueError(f"--adapter-root: two folders for the prefix {prefix!r}")
        if not Path(folder).is_dir():
            raise ValueError(f"--adapter-root: no folder {folder}")
        roots[prefix] = Path(folder).resolve()
    return roots
