"""Conversations as the adapters of requests write them."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from weakref import WeakValueDictionary

from lorax_spec.router.pool import WorkerPool
from lorax_spec.text.rendering import Renderer
from lorax_spec.types import AdapterChat, AdapterRef, Message

#: Seconds for which a worker's answer holds, and how many answers are kept.
_FRESH = 5.0
_KEPT = 256
#: Texts rendered at one time.
_RENDERERS = 2

#: An adapter as a request names it, its token as a hash.
_Key = tuple[str, str, str, str]


class AdapterChats:
    """Renders messages with the chat templates of adapters' folders.

    A template has one renderer at a time, so one that takes all the time it may have keeps none of
    the others waiting for longer than that, however often it is asked for.
    """

    def __init__(self, pool: WorkerPool, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._kept: OrderedDict[_Key, tuple[float, AdapterChat]] = OrderedDict()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._free = asyncio.Semaphore(_RENDERERS)
        self._renderer = Renderer(_RENDERERS)
        self._threads = ThreadPoolExecutor(_RENDERERS, thread_name_prefix="chats")

    async def render(
        self, ref: AdapterRef, special_tokens: Mapping[str, str], messages: Sequence[Message]
    ) -> str | None:
        """The prompt by the adapter's own template; None where its folder has none.

        ``special_tokens`` are the model's.  Raises InvalidArgument where the template fails, and
        what a request on the adapter would end with where the adapter cannot be had.
        """
        chat = await self._chat(ref)
        if not chat.template:
            return None
        turn = self._turns.setdefault(chat.template, asyncio.Lock())
        async with turn, self._free:
            rendering = asyncio.get_running_loop().run_in_executor(
                self._threads, self._renderer.render, ref.adapter_id, chat, special_tokens, messages
            )
            try:
                return await asyncio.shield(rendering)
            except asyncio.CancelledError:
                await asyncio.wait([rendering])  # its thread is not free before
                rendering.exception()  # nobody hears it
                raise

    def close(self) -> None:
        self._renderer.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _chat(self, ref: AdapterRef) -> AdapterChat:
        key = _key(ref)
        until, chat = self._kept.get(key, (0.0, AdapterChat()))
        if self._clock() >= until:
            chat = await self._pool.chat(ref)
            self._kept[key] = self._clock() + _FRESH, chat
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return chat


def _key(ref: AdapterRef) -> _Key:
    token = hashlib.sha256(ref.api_token.encode()).hexdigest()
    return ref.adapter_id, ref.source, ref.revision, token
