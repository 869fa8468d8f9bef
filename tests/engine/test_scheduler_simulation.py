"""Random arrivals on a toy model: everyone ends with the right text, whatever is shared, preempted,
drafted or cancelled.

The simulation keeps, for every cache slot, the text that was computed into it, and checks each
step that a sequence finds its own text behind it and writes nowhere another might read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.engine.blocks import BlockPool
from lorax_spec.engine.scheduler import Scheduled, Scheduler
from lorax_spec.engine.sequence import Sequence
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.speculation.tree import EMPTY, DraftTree, chain
from tests.engine.sequences import next_token, sequence

#: Tokens of the cache; requests have up to two thirds as many.
BLOCKS = 9
#: Far more than even the worst thrashing needs.
STEPS = 3000


@dataclass(frozen=True)
class Arrival:
    step: int
    ready_after: int
    prompt: list[int]
    new_tokens: int
    identity: str
    wants_prefill: bool
    #: Length of the draft of each step, over and over.
    drafts: list[int]
    cancelled_after: int | None


arrivals = st.builds(
    Arrival,
    step=st.integers(0, 25),
    ready_after=st.sampled_from([0, 0, 0, 3, 20]),
    prompt=st.lists(st.integers(0, 1), min_size=1, max_size=50).map(
        lambda bits: [bit for bit in bits for _ in range(2)][: len(bits) + 16]
    ),
    new_tokens=st.integers(1, 60),
    identity=st.sampled_from(["", "", "lora"]),
    wants_prefill=st.sampled_from([False, False, True]),
    drafts=st.lists(st.integers(0, 24), min_size=1, max_size=3),
    cancelled_after=st.none() | st.integers(0, 30),
)


@dataclass
class Simulation:
    scheduler: Scheduler
    budget: int
    #: What was computed into each slot: identity and all tokens up to and with its own.
    slots: dict[int, tuple[str, tuple[int, ...]]] = field(default_factory=dict)

    def step(self, drafts: dict[int, int]) -> list[Sequence]:
        """One step; returns who ended in it.  ``drafts`` says how long each one's next draft is."""
        decoding = {id(s) for s in self.scheduler.running if s.pending == 1}
        plan = self.scheduler.schedule()
        prefilled = sum(s.count for s in plan if id(s.sequence) not in decoding)
        assert prefilled <= self.budget
        assert len({id(s.sequence) for s in plan}) == len(plan)
        assert all(s.sequence.ready for s in plan)
        for scheduled in plan:
            self._compute(scheduled)
        ended = []
        for scheduled in plan:
            own = scheduled.sequence
            if not scheduled.samples:
                self.scheduler.advance(own, scheduled.start + scheduled.count)
                continue
            self._accept(scheduled)
            own.draft = EMPTY
            self.scheduler.advance(own, len(own.tokens) - 1)
            if len(own.tokens) == own.limit:
                self.scheduler.remove(own)
                ended.append(own)
            elif own.draft_room > 0:
                own.draft = _guess(own, min(drafts[own.request.request_id], own.draft_room))
        return ended

    def _compute(self, scheduled: Scheduled) -> None:
        own, end = scheduled.sequence, scheduled.start + scheduled.count
        for position in range(scheduled.start):
            found = self.slots.get(_slot(own, position))
            assert found == (own.identity, tuple(own.tokens[: position + 1]))
        written = {*range(scheduled.start, end)}
        written |= {*range(len(own.tokens), len(own.tokens) + len(scheduled.draft))}
        for position in written:
            block = own.blocks[position // BLOCK_SIZE]
            assert self.scheduler.pool._references[block] == 1, "another reads this block"
            assert block not in self.scheduler.pool._hash_of, "another may take this block"
            self.slots[_slot(own, position)] = ("scratch", ())
        for position in range(scheduled.start, end):
            content = own.identity, tuple(own.tokens[: position + 1])
            self.slots[_slot(own, position)] = content

    def _accept(self, scheduled: Scheduled) -> None:
        own, drafted = scheduled.sequence, iter(scheduled.draft.tokens)
        while len(own.tokens) < own.limit:
            token = next_token(own.tokens)
            own.tokens.append(token)
            if token != next(drafted, None):
                return
            self.slots[_slot(own, len(own.tokens) - 1)] = own.identity, tuple(own.tokens)


def _guess(own: Sequence, length: int) -> DraftTree:
    """Right at first, then wrong."""
    tokens = list(own.tokens)
    for index in range(length):
        tokens.append(next_token(tokens) if index % 6 < 5 else 9)
    return chain(tokens[len(own.tokens) :], "test")


def _slot(own: Sequence, position: int) -> int:
    return own.blocks[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE


def _expected(arrival: Arrival) -> list[int]:
    tokens = list(arrival.prompt)
    for _ in range(arrival.new_tokens):
        tokens.append(next_token(tokens))
    return tokens


def run(crowd: list[Arrival], budget: int, batch_size: int) -> Scheduler:
    scheduler = Scheduler(BlockPool(BLOCKS + 1), budget, batch_size)
    simulation = Simulation(scheduler, budget)
    live: dict[int, Sequence] = {}
    done: dict[int, list[int]] = {}
    for step in range(STEPS):
        for number, arrival in enumerate(crowd):
            if arrival.step == step:
                live[number] = sequence(
                    arrival.prompt,
                    min(arrival.new_tokens, BLOCKS * BLOCK_SIZE - len(arrival.prompt)),
                    number=number,
                    identity=arrival.identity,
                    ready=False,
                    wants_prefill=arrival.wants_prefill,
                )
                scheduler.add(live[number])
            if arrival.step + arrival.ready_after == step and number in live:
                scheduler.make_ready(live[number])
            cancelled = arrival.cancelled_after
            if cancelled is not None and arrival.step + cancelled == step and number in live:
                scheduler.remove(live.pop(number))
                done[number] = []
        lengths = {n: a.drafts[step % len(a.drafts)] for n, a in enumerate(crowd)}
        for ended in simulation.step(lengths):
            number = ended.request.request_id
            done[number] = live.pop(number).tokens
        scheduler.pool.check_integrity([s.blocks for s in (*scheduler.running, *scheduler.waiting)])
        if len(done) == len(crowd):
            break
    assert sorted(done) == list(range(len(crowd))), "not all came to an end"
    for number, tokens in done.items():
        assert tokens in ([], _expected(crowd[number]))
    assert scheduler.pool.free == BLOCKS
    return scheduler


@settings(max_examples=150)
@given(
    crowd=st.lists(arrivals, min_size=1, max_size=8),
    budget=st.sampled_from([1, 7, 16, 40, 200]),
    batch_size=st.sampled_from([1, 3, 100]),
)
def test_everyone_ends_with_the_right_text(
    crowd: list[Arrival], budget: int, batch_size: int
) -> None:
    run(crowd, budget, batch_size)


@pytest.mark.parametrize("budget", [5, 64])
def test_a_crowd_that_thrashes_ends_too(budget: int) -> None:
    """Eight requests, each of which could fill most of the cache alone."""
    crowd = [Arrival(0, 0, [i % 2] * 40, 60, "", False, [0, 20], None) for i in range(8)]
    assert run(crowd, budget, 100).preemptions > 5
