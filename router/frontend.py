"""From a caller's request to the text that comes back, whatever protocol brought it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from lorax_spec.errors import InvalidArgument, Unavailable
from lorax_spec.router.admission import Admission
from lorax_spec.router.chats import AdapterChats
from lorax_spec.router.observation import Observation, SeenRequest
from lorax_spec.router.pool import WorkerPool
from lorax_spec.text.assembly import ResponseBuilder
from lorax_spec.text.best_of import best, sequences
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.text.validate import Limits, ValidRequest, chat_adapter, validate
from lorax_spec.types import (
    AdapterRef,
    GenerateRequest,
    Info,
    InputToken,
    Response,
    StreamResponse,
)

#: Texts longer than this, in characters, are tokenized off the event loop.
_LONG_TEXT = 4096


class Frontend:
    """Validates, admits, generates.  Serves nothing until ``load_text`` found a tokenizer."""

    def __init__(
        self,
        pool: WorkerPool,
        admission: Admission,
        default_adapter: AdapterRef | None,
        observation: Observation,
    ) -> None:
        self._pool = pool
        self._chats = AdapterChats(pool)
        self._admission = admission
        self._default_adapter = default_adapter
        self._observation = observation
        self._tokenizer: TextTokenizer | None = None

    @property
    def ready(self) -> bool:
        return self._tokenizer is not None and bool(self._pool.connected)

    async def load_text(self, folder: str | Path) -> None:
        """Raises FileNotFoundError where there is no tokenizer.json."""
        self._tokenizer = await asyncio.to_thread(TextTokenizer.load, folder)

    def info(self) -> Info:
        """Raises Unavailable before the first worker came."""
        if self._pool.info is None:
            raise Unavailable("no worker has come yet")
        return replace(
            self._pool.info,
            max_concurrent_requests=self._admission.capacity,
            default_adapter_id=self._default_adapter.adapter_id if self._default_adapter else "",
            workers=len(self._pool.connected),
        )

    async def tokenize(self, text: str, add_special_tokens: bool) -> list[InputToken]:
        tokenizer = self._text()
        if len(text) > _LONG_TEXT:
            return await asyncio.to_thread(tokenizer.pieces, text, add_special_tokens)
        return tokenizer.pieces(text, add_special_tokens)

    def close(self) -> None:
        self._chats.close()

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[list[StreamResponse]]:
        """Token events and, last, the details, as many at a time as have come together.

        Leaving early cancels the request.  Raises the LoraxSpecError that ended it.
        """
        with self._observation.request() as seen:
            if _sequences_asked(request) > 1:
                raise InvalidArgument(
                    "`best_of` above 1 cannot be streamed: the best is only known in the end",
                    "parameters.best_of",
                )
            with self._admission.lease():
                async with aclosing(self._run(await self._validate(request), seen)) as batches:
                    async for events in batches:
                        seen.answered = events[-1].details is not None
                        yield events

    async def complete(self, request: GenerateRequest) -> Response:
        """The whole answer, the best one where ``best_of`` asks for several.

        Raises the first LoraxSpecError of any of its sequences, which ends the others too.
        """
        with (
            self._observation.request() as seen,
            self._admission.lease(_sequences_asked(request)),
        ):
            valid = await self._validate(request)
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._answer(one, seen)) for one in sequences(valid)]
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from None
            return best(valid, [task.result() for task in tasks])

    async def _answer(self, valid: ValidRequest, seen: SeenRequest) -> Response:
        async with aclosing(self._run(valid, seen)) as batches:
            async for events in batches:
                last = events[-1]
                if last.details is not None:
                    return Response(last.generated_text or "", last.details)
        raise AssertionError("a stream ends with its details")

    async def _run(
        self, valid: ValidRequest, seen: SeenRequest
    ) -> AsyncGenerator[list[StreamResponse]]:
        builder = ResponseBuilder(valid, self._text())
        request = seen.traced(valid.token_request(0))
        with seen.sequence(valid) as figures:
            async with aclosing(self._pool.run(request)) as batches:
                async for events in batches:
                    figures.note(events)
                    pieces = [piece for event in events for piece in builder.add(event)]
                    if builder.response is not None:
                        figures.finish(builder.response.details)
                    if pieces:
                        yield pieces
                    if builder.response is not None:
                        return

    async def _validate(self, request: GenerateRequest) -> ValidRequest:
        info = self.info()
        limits = Limits(info.max_input_length, info.max_total_tokens, self._default_adapter)
        tokenizer = self._text()
        began, rendered = time.monotonic(), None
        adapter = chat_adapter(request, tokenizer, limits)
        if adapter is not None:
            special_tokens = tokenizer.special_tokens
            rendered = await self._chats.render(adapter, special_tokens, request.messages)
        waited = 0.0 if adapter is None else time.monotonic() - began
        length = len(request.inputs) + sum(len(message.content) for message in request.messages)
        length += len(request.speculation.reference or "") + len(rendered or "")
        if length > _LONG_TEXT:
            valid = await asyncio.to_thread(validate, request, tokenizer, limits, rendered)
        else:
            valid = validate(request, tokenizer, limits, rendered)
        return replace(valid, waited=waited)

    def _text(self) -> TextTokenizer:
        if self._tokenizer is None:
            raise Unavailable("the model's tokenizer is not loaded yet")
        return self._tokenizer


def _sequences_asked(request: GenerateRequest) -> int:
    """Not validated yet: admission comes before any work on the request."""
    return max(1, request.parameters.best_of or 1)
