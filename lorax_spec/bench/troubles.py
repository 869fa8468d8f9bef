"""What callers notice while one adapter downloads slowly and another fails for ever."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from lorax_spec.bench.callers import Callers, gaps
from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.slow_hub import FAILING, SlowHub
from lorax_spec.bench.workload import Prompt, prompts
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import Emitted, Event, Failed
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.types import AdapterRef

CALLERS = 16
QUIET, NULL, TROUBLED = "quiet", "quiet again", "troubled"
_KINDS, _QUICK_KINDS = ("code", "tests", "prose", "rename"), ("doc",)
#: Of each answer: a span should see the failing adapter refused, and end before the slow one comes.
_TOKENS, _QUICK_TOKENS = 400, 16
#: Seconds until what was begun for the failing adapter has come to its end.
_SETTLING = 2.5
_names = count(1)


@dataclass(frozen=True)
class Span:
    """Quantiles of the inter-token times in seconds, by the wall's clock and by processor time,
    and the seconds all took.  ``refused``: how often the failing adapter's caller was told so;
    ``arrived``: whether the slow one was there before the end."""

    p50: float
    p99: float
    cpu_p99: float
    seconds: float
    refused: int = 0
    arrived: bool = False


class _Troubles:
    """Two callers more: one waits for a slow adapter, one asks at once again for a failing one."""

    def __init__(self, core: EngineCore, question: Prompt) -> None:
        self.refused = 0
        self.arrived = False
        self._core = core
        self._question = question
        number = next(_names)
        self._slow = self._ask(f"slow/adapter-{number}")
        self._failing_id = f"{FAILING}/adapter-{number}"
        self._failing = self._ask(self._failing_id)

    def __call__(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.request_id == self._failing and isinstance(event, Failed):
                self.refused += 1
                self._failing = self._ask(self._failing_id)
            elif event.request_id == self._slow and isinstance(event, Failed):
                raise event.error
            elif event.request_id == self._slow and isinstance(event, Emitted):
                self.arrived = True

    def end(self) -> None:
        for request_id in (self._slow, self._failing):
            self._core.cancel(request_id)

    def _ask(self, adapter_id: str) -> int:
        (request,) = EngineSide(self._core, adapter=adapter_id).requests([self._question])
        self._core.submit(replace(request, adapter=AdapterRef(adapter_id, "hub")))
        return request.request_id


def trouble(
    core: EngineCore,
    tokenizer: TextTokenizer,
    ids: Sequence[str],
    hub: SlowHub,
    settings: Settings,
) -> list[dict[str, Span]]:
    """The same long answers from the first of ``ids``, in quiet and in trouble: in each group every
    side in an order drawn for it, and then in reverse.

    Raises the error of any request that had nothing to do with the trouble.
    """
    tokens = _QUICK_TOKENS if settings.quick else _TOKENS
    asked = [
        replace(prompt, new_tokens=tokens, ignore_end=True)
        for prompt in prompts(_QUICK_KINDS if settings.quick else _KINDS, CALLERS, tokenizer)
    ]
    callers = Callers(core, CALLERS)

    def span(name: str) -> Span:
        requests = [
            replace(request, adapter=AdapterRef(adapter_id))
            for adapter_id, request in zip(ids, EngineSide(core).requests(asked), strict=False)
        ]
        core.forget_prefixes()
        hub.hurry.clear()
        began = time.perf_counter()
        troubles = _Troubles(core, asked[0]) if name == TROUBLED else None
        calls = callers.ask(requests, troubles) if troubles else callers.ask(requests)
        seconds = time.perf_counter() - began
        if error := next((call.error for call in calls if call.error), None):
            raise error
        (p50, _), (p99, cpu_p99) = np.quantile(gaps(calls), (0.5, 0.99), axis=0).tolist()
        found = Span(p50, p99, cpu_p99, seconds)
        if troubles is None:
            return found
        troubles.end()
        hub.hurry.set()
        time.sleep(_SETTLING)
        return replace(found, refused=troubles.refused, arrived=troubles.arrived)

    names = [QUIET, NULL, TROUBLED]
    order = random.Random(settings.seed)
    groups = settings.count(5, 1)
    span(QUIET)
    found: list[dict[str, Span]] = []
    for _ in settings.track(range(groups), groups, "trouble"):
        order.shuffle(names)
        found.append({name: span(name) for name in names})
        found.append({name: span(name) for name in reversed(names)})
    return found
