"""An engine without a model: tokens follow from the prompt and the position, by a fixed rule."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from lorax_spec.engine.request import Emitted, EmittedToken, Event, Failed, Finished, TokenRequest
from lorax_spec.errors import (
    AdapterMismatch,
    AdapterNotFound,
    LoraxSpecError,
    PermissionDenied,
)
from lorax_spec.types import (
    AdapterChat,
    AdapterInfo,
    AdapterMove,
    AdapterRef,
    DrafterCounts,
    FinishReason,
    Info,
    SpeculationDetails,
    Timings,
)
from lorax_spec.worker.core import Core
from lorax_spec.worker.server import WorkerConfig, serve_worker
from tests.text.samples import FOLDER, TOKENIZER

#: A prompt that breaks the engine, and one that kills its process.
POISON, DEADLY = "poison", "deadly"

#: Of adapters with a chat template of their own.
CHATS = {
    "demo/chat-shout": AdapterChat("{{ eos_token }}{{ messages[0].content | upper }}"),
    "demo/chat-own": AdapterChat("{{ eos_token }}{{ messages[0].content }}", {"eos_token": "END"}),
    "demo/chat-loop": AdapterChat(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ),
    "demo/chat-no": AdapterChat("{{ raise_exception('roles must alternate') }}"),
}

PLAIN = TOKENIZER.encode("def value(self, name): return [name + x for x in range(10)]\n")


def scripted(prompt: tuple[int, ...], position: int) -> int:
    """The token at this position: pure, as DESIGN P1 wants, and readable."""
    return PLAIN[(sum(prompt) * 31 + position * 7) % len(PLAIN)]


def scripted_logprob(seed: int | None) -> float:
    """Of every token of a request; so it is known which seed gives the likeliest answer."""
    return -1.0 - (seed or 0) % 11


def script(text: str, count: int) -> list[int]:
    prompt = tuple(TOKENIZER.encode(text))
    return [scripted(prompt, len(prompt) + index) for index in range(count)]


@dataclass
class FakeAdapters:
    """Knows adapters that begin with ``demo/``; each loads in a moment."""

    delay: float = 0.0
    infos: dict[str, AdapterInfo] = field(default_factory=dict)
    wakeup: Callable[[], None] = lambda: None
    moves: list[AdapterMove] = field(default_factory=list)

    def list(self) -> list[AdapterInfo]:
        return [*self.infos.values()]

    def load(self, ref: AdapterRef, timeout: float | None = None, wait: bool = True) -> AdapterInfo:
        if not wait:
            threading.Thread(target=self.load, args=(ref,)).start()
            return AdapterInfo(ref.adapter_id, "lora", "fetching", "disk", 10, False)
        if not ref.adapter_id.startswith("demo/"):
            raise AdapterNotFound(f"no adapter {ref.adapter_id!r}")
        if ref.adapter_id == "demo/misfit":
            raise AdapterMismatch("hidden size 64, not 256")
        if ref.adapter_id == "demo/private" and ref.api_token != "right":
            raise PermissionDenied("not for this token")
        time.sleep(self.delay)
        info = AdapterInfo(ref.adapter_id, "lora", "device", "device", 10, False)
        self.infos[ref.adapter_id] = info
        self.moves.append(AdapterMove(ref.adapter_id, "read", self.delay))
        self.wakeup()
        return info

    def chat(self, ref: AdapterRef) -> Future[AdapterChat]:
        future: Future[AdapterChat] = Future()

        def answer() -> None:
            try:
                self.load(ref)
            except LoraxSpecError as error:
                future.set_exception(error)
            else:
                future.set_result(CHATS.get(ref.adapter_id, AdapterChat()))

        threading.Thread(target=answer).start()
        return future

    def unload(self, adapter_id: str) -> None:
        self._change(adapter_id, state="absent", tier="disk")

    def pin(self, adapter_id: str, pinned: bool, timeout: float | None = None) -> AdapterInfo:
        self._change(adapter_id, pinned=pinned)
        return self.infos[adapter_id]

    def take_moves(self) -> list[AdapterMove]:
        moves, self.moves = self.moves, []
        return moves

    def set_wakeup(self, callback: Callable[[], None]) -> None:
        self.wakeup = callback

    def _change(self, adapter_id: str, **changes: object) -> None:
        if adapter_id not in self.infos:
            raise AdapterNotFound(f"no adapter {adapter_id!r}")
        self.infos[adapter_id] = replace(self.infos[adapter_id], **changes)  # type: ignore[arg-type]


class FakeCore:
    """Two tokens a step for each request: a drafted one and the engine's own."""

    def __init__(self, step_seconds: float = 0.0, adapter_seconds: float = 0.0) -> None:
        self.adapters = FakeAdapters(adapter_seconds)
        self.info = Info(
            version="0",
            model_id="fake",
            model_revision="",
            dtype="float32",
            device="cpu",
            max_input_length=1000,
            max_total_tokens=2000,
            max_concurrent_requests=0,
            speculative_tokens=1,
            deterministic=True,
            default_adapter_id="",
            workers=1,
            max_batch_total_tokens=4000,
            block_size=16,
            model_path=str(FOLDER),
        )
        self.running: dict[int, TokenRequest] = {}
        self.waiting: dict[int, TokenRequest] = {}
        self.errors: list[Failed] = []
        self.cancelled: list[int] = []
        self.most_running = 0
        self.steps = 0
        self._step_seconds = step_seconds
        self._passes: dict[int, int] = {}

    @property
    def has_work(self) -> bool:
        ready = [one for one in self.waiting.values() if self._ready(one)]
        return bool(self.running or ready or self.errors)

    def submit(self, request: TokenRequest) -> None:
        self.waiting[request.request_id] = request
        if request.adapter is not None and not self._ready(request):
            threading.Thread(target=self._load, args=(request, request.adapter)).start()

    def cancel(self, request_id: int) -> None:
        self.waiting.pop(request_id, None)
        if self.running.pop(request_id, None):
            self.cancelled.append(request_id)

    def step(self) -> list[Event]:
        time.sleep(self._step_seconds)
        self.steps += 1
        events: list[Event] = [*self.errors]
        self.errors.clear()
        for request_id, request in [*self.waiting.items()]:
            if self._ready(request):
                self.running[request_id] = self.waiting.pop(request_id)
        self.most_running = max(self.most_running, len(self.running))
        for request in [*self.running.values()]:
            events += self._advance(request)
        return events

    def load_figures(self) -> tuple[int, int, int, list[str]]:
        return len(self.running), len(self.waiting), 4000, [*self.adapters.infos]

    def close(self) -> None:
        self.running.clear()

    def _advance(self, request: TokenRequest) -> list[Event]:
        prompt = TOKENIZER.decode(request.prompt)
        if POISON in prompt:
            raise RuntimeError("this engine cannot stand the word")
        if DEADLY in prompt:
            os._exit(9)
        request_id, limit = request.request_id, request.parameters.max_new_tokens or 0
        passes = self._passes[request_id] = self._passes.get(request_id, 0) + 1
        start = len(request.generated)
        ids = [
            scripted(request.prompt, len(request.prompt) + index)
            for index in range(start, min(start + 2, limit))
        ]
        tokens = tuple(
            EmittedToken(
                token_id,
                scripted_logprob(request.parameters.seed),
                "medusa" if index == 0 and len(ids) == 2 else "",
                ((PLAIN[0], -2.0),) * (request.parameters.return_k_alternatives or 0),
            )
            for index, token_id in enumerate(ids)
        )
        request = replace(request, generated=request.generated + tuple(ids))
        self.running[request_id] = request
        drafters = {"medusa": DrafterCounts(passes, passes, (passes,), (passes,))}
        if request.reference:  # all of it drafted, in one long guess
            length = len(request.reference)
            drafters["prompt_lookup"] = DrafterCounts(length, 0, (1,) * length)
        counts = SpeculationDetails(passes, passes, passes, drafters)
        events: list[Event] = [Emitted(request_id, tokens, counts)] if tokens else []
        if len(request.generated) >= limit:
            del self.running[request_id]
            events.append(Finished(request_id, FinishReason.LENGTH, counts, Timings()))
        return events

    def _ready(self, request: TokenRequest) -> bool:
        return request.adapter is None or request.adapter.adapter_id in self.adapters.infos

    def _load(self, request: TokenRequest, ref: AdapterRef) -> None:
        try:
            self.adapters.load(ref)
        except LoraxSpecError as error:
            self.waiting.pop(request.request_id, None)
            self.errors.append(Failed(request.request_id, error))
            self.adapters.wakeup()


def main() -> int:
    """``python -m tests.worker.fake_core LISTEN STEP_SECONDS [OTLP_ENDPOINT]``: a worker."""
    listen, step_seconds, *otlp_endpoint = sys.argv[1:]
    config = WorkerConfig(listen, otlp_endpoint=otlp_endpoint[0] if otlp_endpoint else None)

    def factory() -> Core:
        return FakeCore(float(step_seconds))

    return serve_worker(config, factory, lambda address: print(address, flush=True))


if __name__ == "__main__":
    sys.exit(main())
