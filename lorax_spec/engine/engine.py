"""The engine in process: text in, text out, no servers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from lorax_spec import embedded
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import Failed
from lorax_spec.errors import LoraxSpecError
from lorax_spec.text.assembly import ResponseBuilder
from lorax_spec.text.best_of import best, sequences
from lorax_spec.text.rendering import Renderer
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.text.validate import Limits, ValidRequest, chat_adapter, validate
from lorax_spec.types import (
    BASE_MODEL,
    AdapterChat,
    AdapterInfo,
    AdapterRef,
    GenerateRequest,
    Info,
    Response,
)

#: Adapter ids that begin with this name the embedded bundle's.
DEMO = "demo"


def adapter_roots(adapter_root: str | Path | None = None) -> dict[str, Path]:
    """Where adapters are looked for: the embedded bundle, and a folder of one's own."""
    roots = {DEMO: embedded.path() / "adapters"}
    if adapter_root is not None:
        roots[""] = Path(adapter_root).expanduser()
    return roots


@dataclass(frozen=True)
class _Chat:
    """A request whose messages wait for their adapter's chat template, since ``began``."""

    index: int
    request: GenerateRequest
    adapter: AdapterRef
    template: Future[AdapterChat]
    began: float


@dataclass(frozen=True)
class _Asked:
    """A caller's request, and the answers of its sequences in the making."""

    index: int
    request: ValidRequest
    builders: tuple[ResponseBuilder, ...]

    def answer(self) -> Response | None:
        """The best one, once all are there."""
        answers = [one.response for one in self.builders if one.response is not None]
        return best(self.request, answers) if len(answers) == len(self.builders) else None


class Engine:
    """Generates for batches of requests in this process.

    >>> with Engine() as engine:
    ...     answers = engine.generate([GenerateRequest("def add(a, b):")])

    ``model_id`` is a folder or a hub id, by default the embedded demo model; ``adapter_root`` a
    folder of adapters, beside the embedded ones (``demo/...``); every further option is a field of
    EngineConfig.  Not thread-safe.

    Raises AdapterNotFound or AdapterMismatch where ``adapter_id``, the adapter of requests that
    name none, cannot be served.
    """

    def __init__(
        self,
        model_id: str | Path | None = None,
        *,
        adapter_root: str | Path | None = None,
        adapter_id: str | None = None,
        **options: Any,
    ) -> None:
        model = str(embedded.path() / "base") if model_id is None else str(model_id)
        roots: Mapping[str, Path] = adapter_roots(adapter_root)
        self.core = EngineCore.load(EngineConfig(model, adapter_roots=roots, **options))
        self.info: Info = self.core.info
        self.tokenizer = TextTokenizer.load(self.info.model_path)
        self._limits = Limits(
            self.info.max_input_length,
            self.info.max_total_tokens,
            AdapterRef(adapter_id) if adapter_id else None,
        )
        self._next_id = 0
        self._renderer = Renderer()
        self._arrived = threading.Event()
        self.core.adapters.set_wakeup(self._arrived.set)
        if adapter_id and adapter_id != BASE_MODEL:
            self._load_default(AdapterRef(adapter_id))

    def generate(self, requests: Iterable[GenerateRequest | str]) -> list[Response]:
        """Answer all requests, in their order, batched as the engine sees fit.

        Raises the first error of any request; the others are cancelled then.
        """
        answers: dict[int, Response] = {}
        for index, response in self.stream(requests):
            answers[index] = response
        return [answers[index] for index in range(len(answers))]

    def stream(self, requests: Iterable[GenerateRequest | str]) -> Iterator[tuple[int, Response]]:
        """(index, answer) of each request as it ends."""
        live: dict[int, tuple[_Asked, ResponseBuilder]] = {}
        chats: list[_Chat] = []
        try:
            for index, request in enumerate(requests):
                if isinstance(request, str):
                    request = GenerateRequest(request)
                if chat := self._chat(index, request):
                    chats.append(chat)
                else:
                    live |= self._submit(index, request)
            while live or chats:
                self._wait_for_work(chats)
                for chat in [one for one in chats if one.template.done()]:
                    chats.remove(chat)
                    live |= self._submit_chat(chat)
                if not self.core.has_work:
                    continue
                for event in self.core.step():
                    if event.request_id not in live:
                        continue  # ended by a stop string, earlier in this step
                    if isinstance(event, Failed):
                        del live[event.request_id]
                        raise event.error
                    asked, builder = live[event.request_id]
                    builder.add(event)
                    if builder.response is not None:
                        del live[event.request_id]
                        self.core.cancel(event.request_id)
                        answer = asked.answer()
                        if answer is not None:
                            yield asked.index, answer
        finally:
            for request_id in live:
                self.core.cancel(request_id)
            for chat in chats:
                chat.template.cancel()

    def _load_default(self, adapter: AdapterRef) -> None:
        try:
            self.core.adapters.load(adapter)
        except LoraxSpecError:
            self.core.close()
            raise

    def _chat(self, index: int, request: GenerateRequest) -> _Chat | None:
        """None where no adapter has a say in how the prompt is written."""
        adapter = chat_adapter(request, self.tokenizer, self._limits)
        if adapter is None:
            return None
        began = time.monotonic()
        template = self.core.adapters.chat(adapter)
        template.add_done_callback(lambda _: self._arrived.set())
        return _Chat(index, request, adapter, template, began)

    def _submit_chat(self, chat: _Chat) -> dict[int, tuple[_Asked, ResponseBuilder]]:
        template = chat.template.result()
        rendered = None
        if template.template:
            rendered = self._renderer.render(
                chat.adapter.adapter_id,
                template,
                self.tokenizer.special_tokens,
                chat.request.messages,
            )
        return self._submit(chat.index, chat.request, rendered, time.monotonic() - chat.began)

    def _submit(
        self,
        index: int,
        request: GenerateRequest,
        rendered: str | None = None,
        waited: float = 0.0,
    ) -> dict[int, tuple[_Asked, ResponseBuilder]]:
        """Its sequences by their ids."""
        valid = validate(request, self.tokenizer, self._limits, rendered)
        valid = replace(valid, waited=waited)
        parts = {}
        for sequence in sequences(valid):
            self._next_id += 1
            self.core.submit(sequence.token_request(self._next_id))
            parts[self._next_id] = ResponseBuilder(sequence, self.tokenizer)
        asked = _Asked(index, valid, tuple(parts.values()))
        return {request_id: (asked, builder) for request_id, builder in parts.items()}

    def _wait_for_work(self, chats: Sequence[_Chat]) -> None:
        """Sleep while every request waits for its adapter."""
        while not (self.core.has_work or any(chat.template.done() for chat in chats)):
            self._arrived.wait()
            self._arrived.clear()

    def list_adapters(self) -> Sequence[AdapterInfo]:
        return self.core.adapters.list()

    def close(self) -> None:
        self._renderer.close()
        self.core.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
