"""What one answer was: its tokens, guesses and times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from lorax_spec.engine.request import Emitted, Finished
from lorax_spec.router import metrics as m
from lorax_spec.types import Details, DrafterCounts, SpeculationDetails, Timings


class SequenceFigures:
    """Filled while the answer comes, counted in its end, whatever that is.

    What the caller is told of a finished answer is what is counted; of one that did not finish, as
    much as came.
    """

    def __init__(self, prompt_tokens: int, metrics: m.Metrics, clock: Callable[[], float]) -> None:
        self._prompt_tokens = prompt_tokens
        self._metrics = metrics
        self._clock = clock
        self._tokens = 0
        self._skipped = 0
        self._last: float | None = None
        self._speculation = SpeculationDetails()
        self._engine: Timings | None = None
        self._details: Details | None = None

    @property
    def ran(self) -> bool:
        """Whether an engine took it, so that its adapter is there."""
        return self._tokens > 0 or self._details is not None

    def note(self, events: Sequence[Emitted | Finished]) -> None:
        """What came together."""
        tokens = [token for one in events if isinstance(one, Emitted) for token in one.tokens]
        last = events[-1]
        self._speculation = last.speculation
        if isinstance(last, Finished):
            self._engine = last.timings
        if not tokens:
            return
        self._tokens += len(tokens)
        self._skipped += sum(bool(token.drafter) for token in tokens)
        now = self._clock()
        if self._last is not None:
            self._metrics.observe(m.INTER_TOKEN_SECONDS, now - self._last)
        self._last = now

    def finish(self, details: Details) -> None:
        """As the caller is told."""
        self._details = details
        self._tokens, self._skipped = details.generated_tokens, details.skipped_tokens
        self._speculation = details.speculation

    def count(self, adapter: str) -> int:
        """Add it to the figures, and to those of this label; returns how many tokens it had."""
        if not self.ran:
            return 0
        add, tokens, passes = self._metrics.add, self._tokens, self._speculation.forward_passes
        for whole, part, amount in (
            (m.PROMPT_TOKENS, m.ADAPTER_PROMPT_TOKENS, self._prompt_tokens),
            (m.GENERATED_TOKENS, m.ADAPTER_GENERATED_TOKENS, tokens),
            (m.SKIPPED_TOKENS, m.ADAPTER_SKIPPED_TOKENS, self._skipped),
            (m.FORWARD_PASSES, m.ADAPTER_FORWARD_PASSES, passes),
        ):
            add(whole, amount)
            add(part, amount, adapter=adapter)
        self._count_drafters(adapter, self._speculation.drafters)
        observe = self._metrics.observe
        observe(m.PROMPT_LENGTH, self._prompt_tokens)
        observe(m.ANSWER_LENGTH, tokens)
        if passes:
            observe(m.PER_FORWARD, tokens / passes)
        if self._details is not None:
            self._count_times(adapter, self._details.timings)
        return tokens

    def _count_drafters(self, adapter: str, drafters: Mapping[str, DrafterCounts]) -> None:
        for drafter, counts in drafters.items():
            for whole, part, amount in (
                (m.DRAFTED_TOKENS, m.ADAPTER_DRAFTED_TOKENS, counts.drafted_tokens),
                (m.ACCEPTED_TOKENS, m.ADAPTER_ACCEPTED_TOKENS, counts.accepted_tokens),
            ):
                self._metrics.add(whole, amount, drafter=drafter)
                self._metrics.add(part, amount, adapter=adapter, drafter=drafter)

    def _count_times(self, adapter: str, told: Timings) -> None:
        observe = self._metrics.observe
        if self._tokens:
            observe(m.FIRST_TOKEN_SECONDS, told.first_token)
            observe(m.ADAPTER_FIRST_TOKEN_SECONDS, told.first_token, adapter=adapter)
        if self._tokens > 1:
            observe(m.TOKEN_SECONDS, told.per_token)
            observe(m.ADAPTER_TOKEN_SECONDS, told.per_token, adapter=adapter)
        if told.adapter_load > 0:
            observe(m.ADAPTER_WAIT_SECONDS, told.adapter_load)
        if self._engine is not None:  # a stop string ends it before the engine says its times
            observe(m.QUEUE_SECONDS, self._engine.queue)
            observe(m.ADAPTER_QUEUE_SECONDS, self._engine.queue, adapter=adapter)
            observe(m.PREFILL_SECONDS, self._engine.prefill)
