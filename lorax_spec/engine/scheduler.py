"""Who runs in the next step, and how many of its tokens.

There is no prefill phase and no decode phase: every sequence has known tokens that wait to be
computed, and gets as many of them into a step as the budget allows.  One waiting token and a draft
is decoding; many are a prompt, taken in chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from lorax_spec.adapters.lease import Lease
from lorax_spec.engine.blocks import BlockPool, block_hashes, blocks_for
from lorax_spec.engine.sequence import Sequence
from lorax_spec.engine.turns import Turns
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
    """Keeps the queues and the blocks; knows no tensors and no adapters' contents.

    A sequence waits ``aside`` until it is ready, without holding up anyone; then for its turn; and
    after it lost its blocks, for the next that are free, before all who have not started.
    """

    def __init__(self, pool: BlockPool, prefill_budget: int, batch_size: int) -> None:
        self.pool = pool
        self.aside: dict[Sequence, None] = {}
        self.running: list[Sequence] = []
        #: How often a running sequence lost its blocks so far.
        self.preemptions = 0
        self._turns = Turns()
        self._preempted: deque[Sequence] = deque()
        self._added = 0
        self._prefill_budget = prefill_budget
        self._batch_size = batch_size

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """Everybody who does not run; those that may start first, but not in the order of turns."""
        return (*self._preempted, *self._turns, *self.aside)

    @property
    def has_work(self) -> bool:
        """Whether anybody runs or may start."""
        return bool(self.running or self._preempted or self._turns)

    def add(self, sequence: Sequence) -> None:
        """Take a sequence that has just arrived."""
        sequence.number = self._added
        self._added += 1
        if sequence.ready:
            self._turns.put(sequence)
        else:
            self.aside[sequence] = None

    def make_ready(self, sequence: Sequence) -> None:
        """Let one that waited aside start when its turn comes."""
        sequence.ready = True
        del self.aside[sequence]
        self._turns.put(sequence)

    def put_aside(self, leases: Collection[Lease]) -> list[Sequence]:
        """Let those wait aside who hold one of ``leases`` and have not started; returns them."""
        for sequence in [one for one in self._turns if one.lease in leases]:
            sequence.ready = False
            self._turns.remove(sequence)
            self.aside[sequence] = None
        return [sequence for sequence in self.aside if sequence.lease in leases]

    def schedule(self) -> list[Scheduled]:
        """The next step's rows.

        Those that run are served in the order in which they started.  Who starts: ``Turns``; nobody
        slips past one whose turn it is and who waits for blocks.
        """
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
        while budget > 0 and len(self.running) < self._batch_size:
            first = self._preempted[0] if self._preempted else self._turns.first()
            if first is None or not self._admit(first):
                break
            plan.append(self._chunk(first, budget))
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
        self._preempted.appendleft(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that ended, wherever it is."""
        if sequence in self.running:
            self.running.remove(sequence)
        elif sequence in self.aside:
            del self.aside[sequence]
        elif sequence in self._preempted:
            self._preempted.remove(sequence)
        else:
            self._turns.remove(sequence)
        self._free(sequence)

    def _chunk(self, sequence: Sequence, budget: int) -> Scheduled:
        return Scheduled(sequence, sequence.computed, min(sequence.pending, budget), EMPTY)

    def _admit(self, sequence: Sequence) -> bool:
        """Give whose turn it is blocks for all its known tokens, shared ones first."""
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
        if self._preempted:
            self._preempted.popleft()
        else:
            self._turns.start(sequence)
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
