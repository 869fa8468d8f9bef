"""The engine's heart: schedule, forward, verify, commit, draft, emit."""

from __future__ import annotations

import time
from pathlib import Path

from lorax_spec.adapters.manager import AdapterManager
from lorax_spec.engine.binding import bind, fault, unbind
from lorax_spec.engine.blocks import BlockPool
from lorax_spec.engine.clock import clock_of
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.drafting.drafting import Drafting
from lorax_spec.engine.drafting.grammar import allowed
from lorax_spec.engine.drafting.line_up import LineUp, line_up
from lorax_spec.engine.grammar.compiling import Grammars
from lorax_spec.engine.loading import Loaded, load
from lorax_spec.engine.ops_choice import walks_of
from lorax_spec.engine.request import (
    Emitted,
    EmittedToken,
    Event,
    Failed,
    Finished,
    TokenRequest,
)
from lorax_spec.engine.sampling import History, sampling_rule
from lorax_spec.engine.scheduler import Scheduled, Scheduler
from lorax_spec.engine.sequence import Progress, Sequence
from lorax_spec.engine.tally import Tally
from lorax_spec.engine.verification import (
    Choice,
    figures_of,
    finish_reason,
    moves,
    note_prompts,
    outcomes,
    rejected_guesses,
    sampled,
)
from lorax_spec.engine.warmup import capture_usual, warm_up
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.speculation.tree import EMPTY
from lorax_spec.speculation.verify import Walk
from lorax_spec.types import DrafterCounts, Info, Timings


class EngineCore:
    """Serves token requests on one model.  Not thread-safe: one thread submits, cancels, steps."""

    def __init__(self, loaded: Loaded, line_up: LineUp = line_up) -> None:
        """``line_up`` says what it drafts with."""
        self.info: Info = loaded.info
        self.adapters: AdapterManager = loaded.adapters
        self._model = loaded.model
        self._config = loaded.config
        self._eos = frozenset(loaded.eos_token_ids)
        self._grammars = Grammars(
            Path(self.info.model_path),
            self._model.vocabulary,
            self._eos,
            self._model.device,
            self.adapters.wake,
        )
        self._sequences: dict[int, Sequence] = {}
        self._ended_at_once: list[Event] = []
        self._scheduler = Scheduler(
            BlockPool(loaded.blocks),
            loaded.config.max_batch_prefill_tokens,
            loaded.config.max_batch_size,
        )
        cost = warm_up(self._model, self.adapters.lease(()))
        if self._model.device.type == "cuda" and not loaded.config.eager:
            capture_usual(self._model, self.adapters.lease(()))
        self._clock = clock_of(self._model.device)
        drafters = line_up(loaded, cost)
        self._drafting = Drafting(
            drafters, cost, self._clock, loaded.config.speculative_tokens, allowed
        )
        self._walk = walks_of(loaded.kernels, self._model.vocabulary, self._model.device)
        self._tally = Tally()

    @classmethod
    def load(cls, config: EngineConfig) -> EngineCore:
        """Read the model and find the sizes ``config`` leaves open."""
        return cls(load(config))

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything now (False while all requests await adapters
        or grammars)."""
        return bool(self._ended_at_once or self._scheduler.has_work) or any(
            sequence.settled for sequence in self._scheduler.aside
        )

    def submit(self, request: TokenRequest) -> None:
        """Take a request; faults come back as a Failed event, never as an exception.

        A request that moved here after its last token was sent ends at once.
        """
        names = self._drafting.names
        wrong = fault(request, self.info.max_total_tokens, self._model.vocabulary, names)
        if wrong is not None:
            self._ended_at_once.append(Failed(request.request_id, wrong))
            return
        references = tuple(ref for ref in (request.adapter, request.medusa) if ref is not None)
        rule = sampling_rule(request.parameters)
        tokens = [*request.prompt, *request.generated]
        new_tokens = request.parameters.max_new_tokens
        limit = len(request.prompt) + new_tokens if new_tokens else self.info.max_total_tokens
        progress = Progress()
        sequence = Sequence(
            request=request,
            lease=self.adapters.lease(references),
            rule=rule,
            tokens=tokens,
            limit=min(limit, self.info.max_total_tokens),
            prefill_logprobs=[] if request.parameters.decoder_input_details else None,
            progress=progress,
            compiling=self._grammars.compile(request.parameters.response_format),
        )
        if rule.penalizes:
            sequence.history = History(
                request.prompt, request.generated, self._model.vocabulary, self._model.device
            )
        if request.generated:
            reason = finish_reason(sequence, tokens[-1], len(tokens), self._eos)
            if reason is not None:
                sequence.lease.release()
                self._ended_at_once.append(
                    Finished(request.request_id, reason, progress.speculation(), Timings())
                )
                return
        self._sequences[request.request_id] = sequence
        self._scheduler.add(sequence)

    def cancel(self, request_id: int) -> None:
        """Forget a request and free what it holds; unknown ids are ignored."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._drop(sequence)

    def step(self) -> list[Event]:
        """One forward pass for everybody who can use it."""
        self._give_back()
        events = self._bind()
        plan = self._scheduler.schedule()
        if not plan:
            return events
        now, began = time.monotonic(), self._clock()
        for scheduled in plan:
            if not scheduled.sequence.progress.started:
                scheduled.sequence.progress.started = now
                scheduled.sequence.lease.start()
        batch = self._model.lay_out(plan)
        hidden, logits = self._model.forward(batch)
        rows = sampled(plan, batch)
        walks = self._walk(rows, logits, self._eos)
        note_prompts(plan, batch, logits)
        source, target = moves(rows, walks)
        if source:
            self._model.move(source, target)
        self._drafting.observe(outcomes(rows, walks, logits))
        figures = figures_of(plan, walks)
        drafting = []
        for scheduled in plan:
            if not scheduled.samples:
                self._scheduler.advance(scheduled.sequence, scheduled.start + scheduled.count)
        for one, walk in zip(rows, walks, strict=True):
            events += self._commit(one.scheduled, walk)
            if walk.choices[-1].reason is None:
                last = one.first_row + (walk.nodes[-1] + 1 if walk.nodes else 0)
                drafting.append((one.sequence, hidden[last]))
        if not self._model.took_longer:
            self._drafting.note_step(figures, self._clock() - began)
        if drafting:
            self._drafting.draft(drafting, self._scheduler.prompt_rows())
        return events

    def speculation_figures(self) -> dict[tuple[str, str], DrafterCounts]:
        """Drafted and accepted nodes of ended requests, by adapter id ("" for the base model) and
        drafter, of the adapters used last."""
        return self._tally.figures()

    def load_figures(self) -> tuple[int, int, int, list[str]]:
        """(running, waiting, free KV tokens, ids of the adapters on the device)."""
        on_device = list(self.adapters.on_device())
        scheduler = self._scheduler
        free = scheduler.pool.free * BLOCK_SIZE
        waiting = len(self._sequences) - len(scheduler.running)
        return len(scheduler.running), waiting, free, on_device

    def forget_prefixes(self) -> None:
        """Empty the prefix cache: no later request is spared work by an earlier one."""
        self._scheduler.pool.forget()

    def check_integrity(self) -> None:
        """Raise RuntimeError unless blocks and adapters are exactly those of live requests."""
        scheduler = self._scheduler
        held = [s.blocks for s in (*scheduler.running, *scheduler.waiting)]
        scheduler.pool.check_integrity(held)
        if len(self._sequences) != len(held):
            raise RuntimeError(f"{len(self._sequences)} requests, {len(held)} of them queued")
        self.adapters.check_integrity()

    def close(self) -> None:
        self._grammars.close()
        self.adapters.close()

    def _give_back(self) -> None:
        """Return adapters whose turn is over, of requests that have not started."""
        if recalled := self.adapters.recalled:
            sequences = self._scheduler.put_aside(recalled)
            for sequence in sequences:
                unbind(sequence)
            self.adapters.give_back([sequence.lease for sequence in sequences])

    def _bind(self) -> list[Event]:
        """Hand sequences what has arrived for them; drop those for whom it failed."""
        events, self._ended_at_once = self._ended_at_once, []
        for sequence in [one for one in self._scheduler.aside if one.settled]:
            progress = sequence.progress
            progress.adapter_ready = progress.arrived + sequence.lease.waited
            server_drafts = self._config.speculative_tokens > 0
            error = bind(sequence, self._grammars, server_drafts, self._drafting.names)
            if error is not None:
                self._drop(sequence)
                events.append(Failed(sequence.request.request_id, error))
            else:
                self._scheduler.make_ready(sequence)
        return events

    def _commit(self, scheduled: Scheduled, walk: Walk[Choice]) -> list[Event]:
        """Append what was chosen, count it, and say so."""
        sequence, draft = scheduled.sequence, scheduled.draft
        progress = sequence.progress
        drafters = [draft.drafters[node] for node in walk.nodes]
        progress.forward_passes += 1
        progress.guesses.note(draft, walk.nodes)
        sequence.draft = EMPTY
        sequence.tokens += [choice.token for choice in walk.choices]
        emitted = tuple(
            EmittedToken(c.chosen.token, c.chosen.logprob, drafter, c.chosen.alternatives)
            for c, drafter in zip(walk.choices, [*drafters, ""], strict=True)
        )
        prefill: tuple[float, ...] = ()
        if not progress.first_token:
            progress.first_token = time.monotonic()
            prefill = tuple(sequence.prefill_logprobs or ())
            sequence.prefill_logprobs = None
        self._scheduler.advance(sequence, len(sequence.tokens) - 1)
        request_id = sequence.request.request_id
        told = sequence.request.speculation.show_rejected
        rejected = rejected_guesses(draft, walk.nodes) if told else ()
        events: list[Event] = [
            Emitted(request_id, emitted, progress.speculation(), prefill, rejected)
        ]
        reason = walk.choices[-1].reason
        if reason is not None:
            self._drop(sequence)
            timings = progress.timings(sequence.generated - len(sequence.request.generated))
            events.append(Finished(request_id, reason, progress.speculation(), timings))
        return events

    def _drop(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request.request_id]
        self._scheduler.remove(sequence)
        self._drafting.forget(sequence)
        adapter, lease = sequence.request.adapter, sequence.lease
        counts = sequence.progress.guesses.by_drafter()
        self._tally.note(adapter.adapter_id if adapter else "", lease.versions, counts)
        lease.release()
