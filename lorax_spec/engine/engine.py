"""The engine in process: text in, text out, no servers."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from lorax_spec import embedded
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import Failed
from lorax_spec.text.assembly import ResponseBuilder
from lorax_spec.text.best_of import best, sequences
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.text.validate import Limits, ValidRequest, validate
from lorax_spec.types import AdapterInfo, AdapterRef, GenerateRequest, Info, Response

#: Adapter ids that begin with this name the embedded bundle's.
DEMO = "demo"


def adapter_roots(adapter_root: str | Path | None = None) -> dict[str, Path]:
    """Where adapters are looked for: the embedded bundle, and a folder of one's own."""
    roots = {DEMO: embedded.path() / "adapters"}
    if adapter_root is not None:
        roots[""] = Path(adapter_root).expanduser()
    return roots


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
        self._arrived = threading.Event()
        self.core.adapters.set_wakeup(self._arrived.set)

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
        try:
            for index, request in enumerate(requests):
                live |= self._submit(index, request)
            while live:
                self._wait_for_work()
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

    def _submit(
        self, index: int, request: GenerateRequest | str
    ) -> dict[int, tuple[_Asked, ResponseBuilder]]:
        """Its sequences by their ids."""
        if isinstance(request, str):
            request = GenerateRequest(request)
        valid = validate(request, self.tokenizer, self._limits)
        parts = {}
        for sequence in sequences(valid):
            self._next_id += 1
            self.core.submit(sequence.token_request(self._next_id))
            parts[self._next_id] = ResponseBuilder(sequence, self.tokenizer)
        asked = _Asked(index, valid, tuple(parts.values()))
        return {request_id: (asked, builder) for request_id, builder in parts.items()}

    def _wait_for_work(self) -> None:
        """Sleep while every request waits for its adapter."""
        while not self.core.has_work:
            self._arrived.wait()
            self._arrived.clear()

    def list_adapters(self) -> Sequence[AdapterInfo]:
        return self.core.adapters.list()

    def close(self) -> None:
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
