"""TGI's own client, unmodified: ``tgi_calls.py URL``."""

from __future__ import annotations

import asyncio
import json
import sys

from text_generation import AsyncClient, Client
from text_generation.types import Grammar, GrammarType

PROMPT = "def add(a, b):\n"
SCHEMA = {"type": "boolean"}


async def calls(url: str) -> dict[str, object]:
    client, aio = Client(url, timeout=60), AsyncClient(url, timeout=60)
    options = {"max_new_tokens": 12, "top_n_tokens": 2}
    whole = client.generate(PROMPT, **options)
    events = [*client.generate_stream(PROMPT, **options)]
    grammar = Grammar(type=GrammarType.Json, value=SCHEMA)
    chat = client.chat([{"role": "user", "content": "def add("}], max_tokens=8, temperature=0.0)
    found = {
        "whole": whole.model_dump(mode="json"),
        "stream": [event.model_dump(mode="json") for event in events],
        "async": (await aio.generate(PROMPT, **options)).generated_text,
        "async stream": [e.token.text async for e in aio.generate_stream(PROMPT, **options)],
        "grammar": client.generate(PROMPT, grammar=grammar, max_new_tokens=12).generated_text,
        "chat": chat.model_dump(mode="json"),
    }
    try:
        client.generate(PROMPT, max_new_tokens=10**6)
    except Exception as error:
        found["error"] = type(error).__name__
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(calls(sys.argv[1]))))
