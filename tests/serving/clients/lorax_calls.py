"""LoRAX's own client, unmodified: ``lorax_calls.py URL`` or ``lorax_calls.py URL errors``."""

from __future__ import annotations

import asyncio
import json
import sys

import lorax
from lorax import AsyncClient, Client
from lorax.types import MergedAdapters

PROMPT = "def add(a, b):\n"
MERGED = MergedAdapters(
    ids=["demo/pirate", "demo/tests"], weights=[0.7, 0.3], merge_strategy="ties", density=0.5
)
FORMAT = {"type": "json_object", "schema": {"type": "boolean"}}
CASES = {
    "plain": {},
    "adapter": {"adapter_id": "demo/pirate"},
    "heads": {"adapter_id": "demo/medusa"},
    "merged": {"merged_adapters": MERGED},
    "sampled": {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 7},
    "stop": {"stop_sequences": ["\n\n"], "adapter_id": "demo/pirate"},
    "format": {"response_format": FORMAT},
    "penalty": {"repetition_penalty": 1.3, "return_full_text": True},
    "truncated": {"truncate": 3, "typical_p": 0.9, "seed": 1, "ignore_eos_token": True},
}
#: What no stream takes.
WHOLE = {
    "prefill": {"decoder_input_details": True, "return_k_alternatives": 3},
    "best": {"best_of": 3, "do_sample": True, "temperature": 0.9},
}
#: Of a router before a fake worker, whose house has one place.
FAULTS = {
    "unknown": {"adapter_id": "nobody/here"},
    "misfit": {"adapter_id": "demo/misfit"},
    "private": {"adapter_id": "demo/private"},
    "too long": {"max_new_tokens": 10**6},
}


def response(answer: object) -> dict[str, object]:
    return {"text": answer.generated_text, "details": answer.details.model_dump(mode="json")}


def streamed(events: list[object]) -> dict[str, object]:
    return {
        "tokens": [event.token.id for event in events],
        "text": events[-1].generated_text,
        "early": [event.generated_text for event in events[:-1]],
        "details": events[-1].details.model_dump(mode="json"),
    }


async def calls(url: str) -> dict[str, object]:
    client, aio, found = Client(url), AsyncClient(url), {}
    for name, options in {**CASES, **WHOLE}.items():
        options = {"max_new_tokens": 16, **options}
        found[name] = {"sync": response(client.generate(PROMPT, **options))}
        found[name]["async"] = response(await aio.generate(PROMPT, **options))
        if name in CASES:
            found[name]["stream"] = streamed([*client.generate_stream(PROMPT, **options)])
            events = [event async for event in aio.generate_stream(PROMPT, **options)]
            found[name]["async stream"] = streamed(events)
    return found


async def errors(url: str) -> dict[str, object]:
    client, aio, found = Client(url), AsyncClient(url), {}
    for name, options in FAULTS.items():
        found[name] = [
            kind(lambda options=options: client.generate("x", **options)),
            kind(lambda options=options: [*client.generate_stream("x", **options)]),
            await kind_async(aio.generate("x", **options)),
        ]
    running = client.generate_stream("x", max_new_tokens=400)
    next(running)
    found["full"] = [kind(lambda: client.generate("x", max_new_tokens=2))]
    running.close()
    found["poison"] = [kind(lambda: client.generate("poison", max_new_tokens=2))]
    found["gone"] = [kind(lambda: client.generate("x", max_new_tokens=2))]
    return found


def kind(call: object) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


async def kind_async(call: object) -> str:
    try:
        await call
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


if __name__ == "__main__":
    assert lorax.__file__ is not None
    chosen = errors if sys.argv[2:] == ["errors"] else calls
    print(json.dumps(asyncio.run(chosen(sys.argv[1]))))
