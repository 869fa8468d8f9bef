"""The engine's heart: schedule, forward, verify, commit, draft, emit."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from lorax_spec.adapters.manager import AdapterManager
from lorax_spec.engine.batch import Batch, build_batch
from lorax_spec.engine.blocks import BlockPool
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.drafting.drafts_old import draft_all
from lorax_spec.engine.loading import Loaded, load
from lorax_spec.engine.request import (
    Emitted,
    EmittedToken,
    Event,
    Failed,
    Finished,
    TokenRequest,
)
from lorax_spec.engine.sampling import Chosen, History, Place, choose, sampling_rule
from lorax_spec.engine.scheduler import Scheduled, Scheduler
from lorax_spec.engine.sequence import Progress, Sequence
from lorax_spec.errors import AdapterMismatch, InvalidArgument, LoraxSpecError
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.speculation.tree import EMPTY, ROOT
from lorax_spec.speculation.verify import At, Walk, verify
from lorax_spec.types import AdapterRef, FinishReason, Info, Method, Timings


@dataclass(frozen=True)
class Choice:
    """A chosen token; ``reason`` is set where nothing may follow it."""

    chosen: Chosen
    reason: FinishReason | None

    @property
    def token(self) -> int:
        return self.chosen.token

    @property
    def ends(self) -> bool:
        return self.reason is not None


class EngineCore:
    """Serves token requests on one model.  Not thread-safe: one thread submits, cancels, steps."""

    def __init__(self, loaded: Loaded) -> None:
        self.info: Info = loaded.info
        self.adapters: AdapterManager = loaded.adapters
        self._model = loaded.model
        self._config = loaded.config
        self._row_floor = loaded.row_floor
        self._eos = frozenset(loaded.eos_token_ids)
        self._sequences: dict[int, Sequence] = {}
        self._ended_at_once: list[Event] = []
        self._scheduler = Scheduler(
            BlockPool(loaded.blocks),
            loaded.config.max_batch_prefill_tokens,
            loaded.config.max_batch_size,
        )

    @classmethod
    def load(cls, config: EngineConfig) -> EngineCore:
        """Read the model and find the sizes ``config`` leaves open."""
        return cls(load(config))

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything now (False while all requests await adapters)."""
        return bool(self._ended_at_once or self._scheduler.running) or any(
            sequence.lease.ready or sequence.lease.error for sequence in self._scheduler.waiting
        )

    def submit(self, request: TokenRequest) -> None:
        """Take a request; faults come back as a Failed event, never as an exception.

        A request that moved here after its last token was sent ends at once.
        """
        fault = self._fault(request)
        if fault is not None:
            self._ended_at_once.append(Failed(request.request_id, fault))
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
        )
        if rule.penalizes:
            sequence.history = History(
                request.prompt, request.generated, self._model.vocabulary, self._model.device
            )
        if request.generated:
            reason = self._finish_reason(sequence, tokens[-1], len(tokens))
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
        events = self._bind_adapters()
        plan = self._scheduler.schedule()
        if not plan:
            return events
        now = time.monotonic()
        for scheduled in plan:
            scheduled.sequence.progress.started = scheduled.sequence.progress.started or now
        batch = build_batch(
            plan,
            self._row_floor,
            self._model.shared_heads,
            self._model.device,
            exact=self.info.deterministic,
        )
        hidden, logits = self._model.forward(batch)
        sampling = [(i, scheduled) for i, scheduled in enumerate(plan) if scheduled.samples]
        walks = self._verify(sampling, batch, logits)
        self._note_prompts(plan, batch, logits)
        self._compact(sampling, walks)
        drafting = []
        for scheduled in plan:
            if not scheduled.samples:
                self._scheduler.advance(scheduled.sequence, scheduled.start + scheduled.count)
        for (index, scheduled), walk in zip(sampling, walks, strict=True):
            events += self._commit(scheduled, walk)
            if walk.choices[-1].reason is None:
                row = batch.first_kept[index] + (walk.nodes[-1] + 1 if walk.nodes else 0)
                drafting.append((scheduled.sequence, hidden[row]))
        draft_all(drafting, self._model, self._config.speculative_tokens)
        return events

    def load_figures(self) -> tuple[int, int, int, list[str]]:
        """(running, waiting, free KV tokens, ids of the adapters on the device)."""
        on_device = list(self.adapters.on_device())
        scheduler = self._scheduler
        free = scheduler.pool.free * BLOCK_SIZE
        return len(scheduler.running), len(scheduler.waiting), free, on_device

    def check_integrity(self) -> None:
        """Raise RuntimeError unless blocks and adapters are exactly those of live requests."""
        scheduler = self._scheduler
        held = [s.blocks for s in (*scheduler.running, *scheduler.waiting)]
        scheduler.pool.check_integrity(held)
        if len(self._sequences) != len(held):
            raise RuntimeError(f"{len(self._sequences)} requests, {len(held)} of them queued")
        self.adapters.check_integrity()

    def close(self) -> None:
        self.adapters.close()

    def _fault(self, request: TokenRequest) -> InvalidArgument | None:
        """Why this model can never run ``request``; it would wait for ever, or end the engine."""
        most, vocabulary = self.info.max_total_tokens, self._model.vocabulary
        if not 0 < len(request.prompt) < most:
            count = len(request.prompt)
            return InvalidArgument(f"a prompt of {count} tokens, not 1 to {most - 1}", "inputs")
        if not all(0 <= token < vocabulary for token in (*request.prompt, *request.generated)):
            return InvalidArgument(f"a token is not in the vocabulary of {vocabulary}", "inputs")
        for token in request.parameters.logit_bias:
            if not 0 <= token < vocabulary:
                message = f"token {token} is not in the vocabulary of {vocabulary}"
                return InvalidArgument(message, "parameters.logit_bias")
        return None

    def _bind_adapters(self) -> list[Event]:
        """Hand arrived adapters to the sequences that wait for them; drop those whose failed."""
        events, self._ended_at_once = self._ended_at_once, []
        for sequence in list(self._scheduler.waiting):
            progress = sequence.progress
            if sequence.ready or not (sequence.lease.ready or sequence.lease.error):
                continue
            progress.adapter_ready = progress.arrived + sequence.lease.waited
            error = sequence.lease.error or _bind(sequence)
            if error is None:
                sequence.ready = True
            else:
                self._drop(sequence)
                events.append(Failed(sequence.request.request_id, error))
        return events

    def _verify(
        self, sampling: list[tuple[int, Scheduled]], batch: Batch, logits: torch.Tensor
    ) -> list[Walk[Choice]]:
        lengths = [len(scheduled.sequence.tokens) for _, scheduled in sampling]

        def choose_at(places: list[At]) -> list[Choice]:
            rows = []
            for place in places:
                index, scheduled = sampling[place.tree]
                sequence = scheduled.sequence
                row = batch.first_kept[index] + place.node - ROOT
                position = lengths[place.tree]
                rows.append(Place(row, position, sequence.rule, sequence.history))
            choices = []
            for place, chosen in zip(places, choose(logits, rows), strict=True):
                sequence = sampling[place.tree][1].sequence
                lengths[place.tree] += 1
                if sequence.history is not None:
                    sequence.history.advance(chosen.token)
                reason = self._finish_reason(sequence, chosen.token, lengths[place.tree])
                choices.append(Choice(chosen, reason))
            return choices

        return verify([scheduled.draft for _, scheduled in sampling], choose_at)

    def _finish_reason(self, sequence: Sequence, token: int, length: int) -> FinishReason | None:
        if token in self._eos and not sequence.request.parameters.ignore_eos_token:
            return FinishReason.EOS_TOKEN
        return FinishReason.LENGTH if length >= sequence.limit else None

    def _note_prompts(self, plan: list[Scheduled], batch: Batch, logits: torch.Tensor) -> None:
        """Log-probabilities of prompt tokens, where a request wants them."""
        for index, scheduled in enumerate(plan):
            sequence = scheduled.sequence
            if sequence.prefill_logprobs is None or sequence.progress.first_token:
                continue
            following = sequence.tokens[scheduled.start + 1 : scheduled.start + scheduled.count + 1]
            following = following[: max(0, sequence.prompt_length - scheduled.start - 1)]
            first = batch.first_kept[index] - scheduled.count + 1
            rows = logits[first : first + len(following)].log_softmax(-1)
            targets = torch.tensor(following, dtype=torch.int64, device=rows.device)[:, None]
            sequence.prefill_logprobs += rows.gather(1, targets)[:, 0].tolist()

    def _compact(self, sampling: list[tuple[int, Scheduled]], walks: list[Walk[Choice]]) -> None:
        """Move the keys and values of accepted nodes to where their positions belong."""
        source: list[int] = []
        target: list[int] = []
        for (_, scheduled), walk in zip(sampling, walks, strict=True):
            blocks, known = scheduled.sequence.blocks, len(scheduled.sequence.tokens)
            for depth, node in enumerate(walk.nodes):
                if depth != node:
                    source.append(_slot(blocks, known + node))
                    target.append(_slot(blocks, known + depth))
        if source:
            self._model.move(source, target)

    def _commit(self, scheduled: Scheduled, walk: Walk[Choice]) -> list[Event]:
        """Append what was chosen, count it, and say so."""
        sequence, draft = scheduled.sequence, scheduled.draft
        progress = sequence.progress
        drafters = [draft.drafters[node] for node in walk.nodes]
        progress.forward_passes += 1
        progress.drafted.update(draft.drafters)
        progress.accepted.update(drafters)
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
        events: list[Event] = [Emitted(request_id, emitted, progress.speculation(), prefill)]
        reason = walk.choices[-1].reason
        if reason is not None:
            self._drop(sequence)
            timings = progress.timings(sequence.generated - len(sequence.request.generated))
            events.append(Finished(request_id, reason, progress.speculation(), timings))
        return events

    def _drop(self, sequence: Sequence) -> None:
        del self._sequences[sequence.request.request_id]
        self._scheduler.remove(sequence)
        sequence.lease.release()


def _bind(sequence: Sequence) -> LoraxSpecError | None:
    """Take the weights of a ready lease; says what is wrong where they are not what was asked."""
    weights = iter(sequence.lease.weights)
    request = sequence.request
    if request.adapter is not None:
        adapter = next(weights)
        sequence.lora, sequence.heads = adapter.lora, adapter.medusa
        sequence.identity = adapter.fingerprint if adapter.lora is not None else ""
    if request.medusa is not None:
        sequence.heads = next(weights).medusa
        if sequence.heads is None:
            return _no_heads(request.medusa)
    if request.speculation.method is Method.MEDUSA and sequence.heads is None:
        return _no_heads(request.adapter)
    return None


def _no_heads(reference: AdapterRef | None) -> AdapterMismatch:
    name = f"adapter {reference.adapter_id!r}" if reference else "the base model"
    return AdapterMismatch(f"{name} has no Medusa heads to draft with")


def _slot(blocks: list[int], index: int) -> int:
    return blocks[index // BLOCK_SIZE] * BLOCK_SIZE + index % BLOCK_SIZE
