"""The engine as one side of a comparison: token ids in, token ids, counts and times out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, islice

from lorax_spec.bench.pairs import Run, timed
from lorax_spec.bench.workload import Prompt
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import Emitted, Failed, Finished, TokenRequest
from lorax_spec.types import AdapterRef, Method, Parameters, Speculation, SpeculationDetails

_ids = count(1)


@dataclass
class Answer:
    """What one request got."""

    tokens: list[int] = field(default_factory=list)
    speculation: SpeculationDetails = SpeculationDetails()


@dataclass(frozen=True)
class EngineSide:
    """Runs prompts all at once on one core, speculating and adapted as given.

    Nothing is left of earlier prompts: a benchmark repeats them, and a prefix cache would then
    spare one side work that the other does.
    """

    core: EngineCore
    speculation: Speculation = Speculation(Method.NONE)
    adapter: str | None = None
    temperature: float = 0.0
    seed: int = 0

    def __call__(self, prompts: Sequence[Prompt], /) -> Run:
        requests = list(self.requests(prompts))
        self.core.forget_prefixes()
        answers, seconds, cpu_seconds = timed(lambda: drive(self.core, requests))
        return Run(tuple(tuple(a.tokens) for a in answers), seconds, cpu_seconds)

    def requests(self, prompts: Sequence[Prompt]) -> Iterator[TokenRequest]:
        heads = self.speculation.medusa_adapter_id
        for index, prompt in enumerate(prompts):
            yield TokenRequest(
                next(_ids),
                prompt.ids,
                Parameters(
                    max_new_tokens=prompt.new_tokens,
                    temperature=(
                        self.temperature if prompt.temperature is None else prompt.temperature
                    ),
                    ignore_eos_token=prompt.ignore_end,
                    seed=self.seed + index,
                ),
                replace(self.speculation, medusa_adapter_id=None),
                AdapterRef(self.adapter) if self.adapter else None,
                AdapterRef(heads) if heads else None,
            )

    def speculating(self, method: Method, num_tokens: int) -> EngineSide:
        """The same side with another drafter; its heads stay."""
        heads = self.speculation.medusa_adapter_id
        return replace(self, speculation=Speculation(method, num_tokens, heads))


class Traffic:
    """Requests on their way through a core, so many at a time."""

    def __init__(self, core: EngineCore, requests: Sequence[TokenRequest]) -> None:
        self.answers = {request.request_id: Answer() for request in requests}
        self._core = core
        self._waiting = deque(requests)
        self._live = 0

    @property
    def tokens(self) -> int:
        """That came so far."""
        return sum(len(answer.tokens) for answer in self.answers.values())

    def fill(self, at_once: int) -> None:
        """Take ``at_once`` requests and compute their prompts."""
        first = list(islice(self._waiting, at_once))
        self._take(at_once)
        while not all(self.answers[request.request_id].tokens for request in first):
            self._step()

    def run_full(self, at_once: int) -> None:
        """Keep ``at_once`` requests running until there is none left to take."""
        while self._waiting:
            self._step()
            self._take(at_once)

    def finish(self) -> list[Answer]:
        """Run all to their ends; answers in the order of the requests."""
        self._take(len(self.answers))
        while self._live:
            self._step()
        return list(self.answers.values())

    def _take(self, at_once: int) -> None:
        while self._waiting and self._live < at_once:
            self._core.submit(self._waiting.popleft())
            self._live += 1

    def _step(self) -> None:
        """Raises the first error of any request."""
        if not self._core.has_work:
            time.sleep(0.001)
        for event in self._core.step():
            match event:
                case Emitted(request_id, tokens):
                    self.answers[request_id].tokens += [token.id for token in tokens]
                case Finished(request_id, _, speculation):
                    self.answers[request_id].speculation = speculation
                    self._live -= 1
                case Failed(_, error):
                    raise error


def drive(core: EngineCore, requests: Sequence[TokenRequest]) -> list[Answer]:
    """Answers in the order of the requests.  Raises the first error of any."""
    return Traffic(core, requests).finish()
