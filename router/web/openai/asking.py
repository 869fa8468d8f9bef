"""From a request of OpenAI's to those of our own that answer it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from lorax_spec import __version__
from lorax_spec.errors import InvalidArgument
from lorax_spec.router.frontend import Frontend
from lorax_spec.router.web.fields import logit_bias, speculation
from lorax_spec.router.web.openai.names import adapter_id, base_name
from lorax_spec.router.web.openai.schemas import CommonBody
from lorax_spec.text.best_of import SEED_STEP
from lorax_spec.types import (
    BASE_MODEL,
    GenerateRequest,
    Info,
    Parameters,
    Response,
    StreamResponse,
)
from lorax_spec.wire import request_from_pb, request_to_pb

#: Of which answer, and what has come of it.
Part = tuple[int, list[StreamResponse]]


def request(body: CommonBody, info: Info, **parameters: Any) -> GenerateRequest:
    """All that the two kinds of request share, without a prompt.

    OpenAI samples where nothing is said, at temperature 1.
    """
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    temperature = 1.0 if body.temperature is None else body.temperature
    return GenerateRequest(
        adapter_id=adapter_id(body.model, info),
        adapter_source=body.adapter_source,
        adapter_revision=body.adapter_revision,
        api_token=body.api_token,
        speculation=speculation(body.speculation),
        parameters=Parameters(
            temperature=temperature,
            do_sample=temperature != 0,
            top_k=body.top_k,
            top_p=body.top_p,
            min_p=body.min_p,
            typical_p=body.typical_p,
            repetition_penalty=body.repetition_penalty,
            frequency_penalty=body.frequency_penalty,
            presence_penalty=body.presence_penalty,
            ignore_eos_token=bool(body.ignore_eos_token),
            truncate=body.truncate,
            stop=stop,
            seed=None if body.seed is None else body.seed % 2**64,
            logit_bias=logit_bias(body.logit_bias),
            **parameters,
        ),
    )


def several(asked: GenerateRequest, count: int) -> list[GenerateRequest]:
    """As many requests with seeds that follow from one, by way of the wire: so they mean what they
    mean over gRPC.  Raises InvalidArgument naming a field that does not fit it."""
    parameters = asked.parameters
    if count > 1 and parameters.seed is None:
        parameters = replace(parameters, seed=secrets.randbits(64))
    return [
        request_from_pb(request_to_pb(replace(asked, parameters=_seeded(parameters, place))))
        for place in range(count)
    ]


def check_room(count: int, info: Info) -> None:
    """Raises InvalidArgument where so many answers could never be made together."""
    most = info.max_concurrent_requests
    if count > most:
        problem = f"`n` asks for {count} answers; this server runs {most} requests at a time"
        raise InvalidArgument(problem, "n")


async def completed(frontend: Frontend, asked: Sequence[GenerateRequest]) -> list[Response]:
    """Their answers, in order.  Raises the first LoraxSpecError, which ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(frontend.complete(one)) for one in asked]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def streamed(frontend: Frontend, asked: Sequence[GenerateRequest]) -> AsyncGenerator[Part]:
    """What comes of any of them; errors as in ``completed``.  Leaving early cancels all."""
    if len(asked) == 1:
        async with aclosing(frontend.stream(asked[0])) as batches:
            async for batch in batches:
                yield 0, batch
        return
    come: asyncio.Queue[Part | Exception] = asyncio.Queue(maxsize=len(asked))

    async def read(place: int, one: GenerateRequest) -> None:
        try:
            async with aclosing(frontend.stream(one)) as batches:
                async for batch in batches:
                    await come.put((place, batch))
        except Exception as error:
            await come.put(error)

    tasks = [asyncio.create_task(read(place, one)) for place, one in enumerate(asked)]
    try:
        left = len(asked)
        while left:
            part = await come.get()
            if isinstance(part, Exception):
                raise part
            yield part
            left -= part[1][-1].details is not None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def head(prefix: str, kind: str, model: str, info: Info) -> dict[str, Any]:
    """Fields of ``Head``."""
    return {
        "id": f"{prefix}-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": _answering(model, info),
        "system_fingerprint": f"lorax-spec-{__version__}",
    }


def _answering(model: str, info: Info) -> str:
    chosen = adapter_id(model, info) or info.default_adapter_id or BASE_MODEL
    return base_name(info) if chosen == BASE_MODEL else chosen


def _seeded(parameters: Parameters, place: int) -> Parameters:
    if parameters.seed is None:
        return parameters
    return replace(parameters, seed=(parameters.seed + place * SEED_STEP) % 2**64)
