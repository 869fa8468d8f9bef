"""Messages are written as the request's adapter writes them."""

from __future__ import annotations

import asyncio
import gc
import time
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from lorax_spec.errors import AdapterNotFound, InvalidArgument, PermissionDenied
from lorax_spec.router import chats
from lorax_spec.router.chats import AdapterChats
from lorax_spec.text.validate import Limits, chat_adapter
from lorax_spec.types import (
    BASE_MODEL,
    AdapterChat,
    AdapterRef,
    GenerateRequest,
    MergedAdapters,
    Message,
    Parameters,
    Speculation,
)
from lorax_spec.wire import error_of, request_to_pb
from tests.adapters.executors import Clock
from tests.router.house import House, house
from tests.text.samples import TOKENIZER
from tests.worker.processes import fake_worker

MESSAGES = (Message("user", "hello"),)
BASE = TOKENIZER.apply_chat_template(MESSAGES)
END = TOKENIZER.special_tokens["eos_token"]


async def prompt(running: House, adapter_id: str | None, **fields: Any) -> str:
    """What the messages became."""
    parameters = Parameters(max_new_tokens=2, return_full_text=True, details=True)
    fields = {"inputs": "", "parameters": parameters, "messages": MESSAGES, **fields}
    request = request_to_pb(GenerateRequest(adapter_id=adapter_id, **fields))
    try:
        answer = await running.stub.Generate(request, timeout=30)
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from error
    tokens = "".join(token.text for token in answer.details.tokens)
    text: str = answer.generated_text
    return text.removesuffix(tokens)


def test_each_adapter_has_its_own() -> None:
    async def main() -> None:
        with fake_worker() as (_, address):
            async with house(address) as running:
                wanted = {
                    None: BASE,
                    BASE_MODEL: BASE,
                    "demo/a": BASE,
                    "demo/chat-shout": f"{END}HELLO",
                    "demo/chat-own": "ENDhello",
                }
                for _ in range(2):
                    asked = [prompt(running, adapter_id) for adapter_id in wanted]
                    assert await asyncio.gather(*asked) == [*wanted.values()]
                paired = Speculation(medusa_adapter_id="demo/chat-own")
                assert await prompt(running, "demo/a", speculation=paired) == BASE
                plain = await prompt(running, "demo/chat-own", inputs="hello", messages=())
                assert plain == "hello"

    asyncio.run(main())


def test_the_default_adapters(tmp_path: Path) -> None:
    async def main() -> None:
        with fake_worker() as (_, address):
            async with house(address, adapter_id="demo/chat-own") as running:
                assert await prompt(running, None) == "ENDhello"
                assert await prompt(running, BASE_MODEL) == BASE

    asyncio.run(main())


def test_faults_come_before_anything_runs() -> None:
    async def main() -> None:
        with fake_worker() as (_, address):
            async with house(address) as running:
                with pytest.raises(AdapterNotFound, match="nobody"):
                    await prompt(running, "nobody")
                with pytest.raises(InvalidArgument) as caught:
                    await prompt(running, "demo/chat-no")
                assert caught.value.field == "messages"
                assert "adapter 'demo/chat-no' refuses" in caught.value.message
                assert "roles must alternate" in caught.value.message
                with pytest.raises(InvalidArgument) as caught:  # and nobody is asked for nobody
                    await prompt(running, "nobody", parameters=Parameters(temperature=-1))
                assert caught.value.field == "parameters.temperature"

    asyncio.run(main())


@pytest.mark.slow
def test_an_endless_template_keeps_nobody_waiting() -> None:
    """Asked for by many at once, it has one renderer; the others go by."""

    async def main() -> None:
        with fake_worker() as (_, address):
            async with house(address) as running:
                for adapter_id in ("demo/chat-own", "demo/chat-loop"):  # both renderers begin
                    await asyncio.gather(prompt(running, adapter_id), return_exceptions=True)
                bad = [asyncio.create_task(prompt(running, "demo/chat-loop")) for _ in range(3)]
                await asyncio.sleep(0.1)
                slowest = 0.0
                while not bad[1].done():
                    began = time.monotonic()
                    assert await prompt(running, "demo/chat-own") == "ENDhello"
                    assert await prompt(running, None) == BASE
                    slowest = max(slowest, time.monotonic() - began)
                assert slowest < 0.7, "less than the endless one's second"
                for task in bad:
                    with pytest.raises(InvalidArgument, match="chat-loop' takes longer than 1 s"):
                        await task

    asyncio.run(main())


def test_a_lost_worker_is_waited_for(tmp_path: Path) -> None:
    listen = f"unix:{tmp_path}/worker.sock"

    async def main() -> None:
        with fake_worker(listen) as (first, address):
            async with house(address) as running:
                first.kill()
                asked = asyncio.create_task(prompt(running, "demo/chat-own"))
                await asyncio.sleep(0.3)
                with fake_worker(listen):
                    assert await asked == "ENDhello"

    asyncio.run(main())


class Scoped:
    """A pool of workers whose adapters only the token ``right`` may read."""

    def __init__(self) -> None:
        self.asked: list[AdapterRef] = []

    async def chat(self, ref: AdapterRef) -> AdapterChat:
        self.asked.append(ref)
        if ref.api_token != "right":
            raise PermissionDenied("not yours")
        return AdapterChat(f"{ref.adapter_id} {ref.source} {ref.revision}")


def test_answers_are_kept_for_a_moment_and_for_who_asked() -> None:
    pool, clock = Scoped(), Clock()

    async def main() -> None:
        known = AdapterChats(pool, clock)  # type: ignore[arg-type]

        async def render(*ref: str) -> str | None:
            return await known.render(AdapterRef(*ref), {}, MESSAGES)

        assert await render("a", "hub", "1", "right") == "a hub 1"
        assert await render("a", "hub", "1", "right") == "a hub 1"
        assert len(pool.asked) == 1
        for token in ("wrong", ""):
            with pytest.raises(PermissionDenied):
                await render("a", "hub", "1", token)
        assert await render("a", "hub", "2", "right") == "a hub 2"
        assert await render("a", "s3", "1", "right") == "a s3 1"
        assert await render("b", "hub", "1", "right") == "b hub 1"
        assert len(pool.asked) == 6
        clock.now += 6
        assert await render("a", "hub", "1", "right") == "a hub 1"
        assert len(pool.asked) == 7, "it may have changed"
        for number in range(chats._KEPT + 9):
            await render(str(number), "", "", "right")
        assert len(known._kept) == chats._KEPT
        assert "right" not in repr(known._kept)
        known.close()

    asyncio.run(main())


@pytest.mark.slow
def test_a_caller_who_leaves_gives_the_turn_to_the_next() -> None:
    pool = Scoped()
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"

    async def chat(ref: AdapterRef) -> AdapterChat:
        return AdapterChat(loop)

    pool.chat = chat  # type: ignore[method-assign]

    async def ask(known: AdapterChats) -> BaseException | None:
        """Twenty ask, all but the last leave; what that one hears."""
        asked = [
            asyncio.create_task(known.render(AdapterRef("a"), {}, MESSAGES)) for _ in range(20)
        ]
        await asyncio.sleep(0.3)
        for task in asked[:-1]:
            task.cancel()
        await asyncio.wait(asked)
        return asked[-1].exception()

    async def main() -> None:
        known = AdapterChats(pool)  # type: ignore[arg-type]
        began = time.monotonic()
        refused = isinstance(await ask(known), InvalidArgument)
        assert refused and time.monotonic() - began < 4, "the first that runs, and the last"
        await asyncio.sleep(0.1)
        gc.collect()
        assert len(known._turns) == 0, "a template nobody asks for is forgotten"
        known.close()

    asyncio.run(main())


def test_a_merged_adapter_has_the_models() -> None:
    """The fake engine knows no merged adapters: it is enough that nobody is asked for its parts."""
    merged = MergedAdapters(("demo/chat-own", "demo/chat-shout"))
    request = GenerateRequest("", messages=MESSAGES, merged_adapters=merged)
    limits = Limits(10, 20, AdapterRef("demo/chat-own"))
    assert chat_adapter(request, TOKENIZER, limits) is None
