"""Who runs in the next step, and how many of its tokens.

There is no prefill phase and no decode phase: every sequence has known tokens that wait to be
computed, and gets as many of them into a step as the budget allows.  One waiting token and a draft
is decoding; many are a prompt, taken in chunks.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from lorax_spec.engine.blocks import BlockPool, block_hashes, blocks_for
from lorax_spec.engine.sequence import Sequence
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.speculation.tree import EMPTY, DraftTree


@dataclass(frozen=True)
class Scheduled:
    """Rows of one sequence in a step: tokens ``start`` to ``start + count``, then the draft.

    ``samples`` says that the last known token is among them, so that a new one can be chosen.
    """

    sequence: Sequence
    start: int
    count: int
    draft: DraftTree

    @property
    def samples(self) -> bool:
        return self.start + self.count == len(self.sequence.tokens)


class Scheduler:
    """Keeps the queues and the blocks; knows no tensors and no adapters' contents."""

    def __init__(self, pool: BlockPool, prefill_budget: int, batch_size: int) -> None:
        self.pool = pool
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        #: How often a running sequence lost its blocks so far.
        self.preemptions = 0
        self._prefill_budget = prefill_budget
        self._batch_size = batch_size

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def schedule(self) -> list[Scheduled]:
        """The next step's rows.  Sequences that came first are served first; those whose adapters
        are not there yet wait aside without holding up anyone."""
        plan: list[Scheduled] = []
        budget = self._prefill_budget
        for sequence in list(self.running):
            if sequence not in self.running:
                continue  # preempted for one before it
            if sequence.pending == 1:
                if self._make_room(sequence):
                    plan.append(Scheduled(sequence, sequence.computed, 1, sequence.draft))
            elif budget > 0:
                plan.append(self._chunk(sequence, budget))
                budget -= plan[-1].count
        for sequence in list(self.waiting):
            if budget <= 0 or len(self.running) >= self._batch_size:
                break
            if not sequence.ready:
                continue
            if not self._admit(sequence):
                break
            plan.append(self._chunk(sequence, budget))
            budget -= plan[-1].count
        return plan

    def prompt_rows(self) -> int:
        """Rows of prompts in the next step, as far as that is known now."""
        pending = sum(s.pending for s in self.running if s.pending > 1)
        return min(self._prefill_budget, pending)

    def advance(self, sequence: Sequence, computed: int) -> None:
        """Say that ``computed`` tokens are cached now; shares full blocks, frees spare ones."""
        sequence.computed = computed
        full = computed // BLOCK_SIZE
        if full > sequence.published:
            hashes = block_hashes(sequence.tokens[:computed], sequence.identity, sequence.hashes)
            sequence.hashes = hashes
            for index in range(sequence.published, full):
                self.pool.publish(sequence.blocks[index], hashes[index])
            sequence.published = full
        needed = blocks_for(len(sequence.tokens))
        self.pool.release(sequence.blocks[needed:])
        del sequence.blocks[needed:]

    def preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's blocks; it will be computed anew, with the same result."""
        self.preemptions += 1
        self.running.remove(sequence)
        self._free(sequence)
        self.waiting.appendleft(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that ended, wherever it is."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self._free(sequence)

    def _chunk(self, sequence: Sequence, budget: int) -> Scheduled:
        return Scheduled(sequence, sequence.computed, min(sequence.pending, budget), EMPTY)

    def _admit(self, sequence: Sequence) -> bool:
        """Give a waiting sequence blocks for all its known tokens, shared ones first."""
        tokens = sequence.tokens
        matched: list[int] = []
        if sequence.prefill_logprobs is None:
            sequence.hashes = block_hashes(tokens, sequence.identity, sequence.hashes)
            # The last token is always computed: its logits choose the next.
            matched = self.pool.match(sequence.hashes[: (len(tokens) - 1) // BLOCK_SIZE])
        fresh = self.pool.take(blocks_for(len(tokens)) - len(matched))
        if fresh is None:
            self.pool.release(matched)
            return False
        sequence.blocks = matched + fresh
        sequence.computed = len(matched) * BLOCK_SIZE
        sequence.published = len(matched)
        self.waiting.remove(sequence)
        self.running.append(sequence)
        return True

    def _make_room(self, sequence: Sequence) -> bool:
        """Blocks for the next token and its draft.  The draft yields before anyone is preempted;
        then the youngest sequence does, which may be this one."""
        missing = blocks_for(len(sequence.tokens) + len(sequence.draft)) - len(sequence.blocks)
        if missing > self.pool.free:
            sequence.draft = EMPTY
            missing = blocks_for(len(sequence.tokens)) - len(sequence.blocks)
        while missing > self.pool.free:
            victim = self.running[-1]
            self.preempt(victim)
            if victim is sequence:
                return False
        if missing > 0:
            fresh = self.pool.take(missing)
            assert fresh is not None
            sequence.blocks += fresh
        return True

    def _free(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = sequence.published = 0
        sequence.draft = EMPTY
        if sequence.prefill_logprobs is not None:
            sequence.prefill_logprobs = []
