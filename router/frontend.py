"""From a caller's request to the text that comes back, whatever protocol brought it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from lorax_spec.errors import Unavailable
from lorax_spec.router.admission import Admission
from lorax_spec.router.pool import WorkerPool
from lorax_spec.text.assembly import ResponseBuilder
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.text.validate import Limits, ValidRequest, validate
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
        self, pool: WorkerPool, admission: Admission, default_adapter: AdapterRef | None
    ) -> None:
        self._pool = pool
        self._admission = admission
        self._default_adapter = default_adapter
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

    async def stream(self, request: GenerateRequest) -> AsyncGenerator[StreamResponse]:
        """Token events and, last, the details.  Leaving early cancels the request.

        Raises the LoraxSpecError that ended it.
        """
        with self._admission.lease():
            valid = await self._validate(request)
            builder = ResponseBuilder(valid, self._text())
            async with aclosing(self._pool.run(valid.token_request(0))) as events:
                async for event in events:
                    for piece in builder.add(event):
                        yield piece
                    if builder.response is not None:
                        return

    async def complete(self, request: GenerateRequest) -> Response:
        async with aclosing(self.stream(request)) as events:
            async for event in events:
                if event.details is not None:
                    return Response(event.generated_text or "", event.details)
        raise AssertionError("a stream ends with its details")

    async def _validate(self, request: GenerateRequest) -> ValidRequest:
        info = self.info()
        limits = Limits(info.max_input_length, info.max_total_tokens, self._default_adapter)
        length = len(request.inputs) + sum(len(message.content) for message in request.messages)
        if length > _LONG_TEXT:
            return await asyncio.to_thread(validate, request, self._text(), limits)
        return validate(request, self._text(), limits)

    def _text(self) -> TextTokenizer:
        if self._tokenizer is None:
            raise Unavailable("the model's tokenizer is not loaded yet")
        return self._tokenizer
