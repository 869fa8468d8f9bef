"""Who runs when: order, budgets, preemption."""

from __future__ import annotations

from lorax_spec.engine.blocks import BlockPool
from lorax_spec.engine.scheduler import Scheduled, Scheduler
from lorax_spec.engine.sequence import Sequence
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.speculation.tree import EMPTY, chain
from tests.engine.sequences import next_token, sequence

PLENTY = 1000


def scheduler(blocks: int = PLENTY, budget: int = PLENTY, batch: int = PLENTY) -> Scheduler:
    return Scheduler(BlockPool(blocks + 1), budget, batch)


def step(scheduler: Scheduler, tokens: int = 1) -> list[Scheduled]:
    """Run a step in which every decoding sequence gets ``tokens`` tokens, as if drafted."""
    plan = scheduler.schedule()
    for scheduled in plan:
        own = scheduled.sequence
        if not scheduled.samples:
            scheduler.advance(own, scheduled.start + scheduled.count)
            continue
        for _ in range(min(tokens, len(scheduled.draft) + 1)):
            own.tokens.append(next_token(own.tokens))
        own.draft = EMPTY
        scheduler.advance(own, len(own.tokens) - 1)
    scheduler.pool.check_integrity([s.blocks for s in (*scheduler.running, *scheduler.waiting)])
    return plan


def add(scheduler: Scheduler, *sequences: Sequence) -> None:
    for one in sequences:
        scheduler.add(one)


def who(plan: list[Scheduled]) -> list[int]:
    return [scheduled.sequence.request.request_id for scheduled in plan]


def test_first_come_first_served() -> None:
    own = scheduler(blocks=4)
    add(own, sequence(20, number=0), sequence(30, number=1), sequence(5, number=2))
    assert who(step(own)) == [0, 1], "the third waits, though its one block would soon be free"
    own.remove(own.running[0])
    assert who(step(own)) == [1, 2]


def test_a_later_one_does_not_slip_past_one_that_waits_for_room() -> None:
    own = scheduler(blocks=3)
    add(own, sequence(20, number=0), sequence(30, number=1), sequence(5, number=2))
    assert who(step(own)) == [0]
    assert who(step(own)) == [0]


def test_a_long_prompt_is_taken_in_chunks_while_others_decode() -> None:
    own = scheduler(budget=32)
    add(own, sequence(5, number=0))
    step(own)
    add(own, sequence(100, number=1), sequence(40, number=2))
    chunks = [[(s.start, s.count) for s in step(own)] for _ in range(5)]
    assert [rows[0] for rows in chunks] == [(5 + i, 1) for i in range(5)]
    assert [rows[1:] for rows in chunks] == [
        [(0, 32)],
        [(32, 32)],
        [(64, 32)],
        [(96, 4), (0, 28)],
        [(100, 1), (28, 12)],
    ]
    assert [one.generated for one in own.running] == [6, 2, 1], "none before its last chunk"


def test_who_waits_for_an_adapter_holds_up_nobody() -> None:
    own = scheduler()
    late = sequence(5, number=0, ready=False)
    add(own, late, sequence(5, number=1), sequence(5, number=2))
    assert who(step(own)) == [1, 2]
    own.make_ready(late)
    assert who(step(own)) == [1, 2, 0]


def test_no_more_than_the_batch_size_run() -> None:
    own = scheduler(batch=2)
    add(own, *(sequence(5, number=i) for i in range(3)))
    assert who(step(own)) == [0, 1]
    own.remove(own.running[1])
    assert who(step(own)) == [0, 2]


def test_the_youngest_makes_room_and_comes_back_first() -> None:
    own = scheduler(blocks=4)
    add(own, *(sequence(BLOCK_SIZE - 1, number=i) for i in range(3)), sequence(60, number=3))
    assert who(step(own)) == [0, 1, 2]
    assert who(step(own)) == [0, 1, 2], "each fills its block to the last slot"
    plan = step(own)
    assert who(plan) == [0, 1], "the first got the spare block, the second the third one's"
    assert own.preemptions == 1
    assert [s.request.request_id for s in own.waiting] == [2, 3]
    victim = own.waiting[0]
    assert (victim.blocks, victim.computed, victim.published) == ([], 0, 0)
    own.remove(own.running[0])
    assert who(step(own)) == [1, 2]
    assert own.running[-1] is victim


def test_two_victims_keep_their_order() -> None:
    own = scheduler(blocks=3)
    add(own, *(sequence(BLOCK_SIZE, number=i) for i in range(3)))
    step(own)
    own.running[0].draft = chain([1] * BLOCK_SIZE, "test")
    assert who(step(own)) == [0]
    assert [s.request.request_id for s in own.waiting] == [1, 2]


def test_one_alone_gives_up_its_own_place_to_its_elders() -> None:
    own = scheduler(blocks=3)
    add(own, sequence(BLOCK_SIZE, number=0), sequence(BLOCK_SIZE, number=1))
    step(own)
    assert who(step(own)) == [0], "the one spare block goes to the elder"
    assert own.waiting[0].request.request_id == 1


def test_drafts_yield_before_anyone_is_preempted() -> None:
    own = scheduler(blocks=4)
    add(own, sequence(20, number=0), sequence(20, number=1))
    step(own)
    for one in own.running:
        one.draft = chain([1] * 20, "test")
    plan = step(own)
    assert who(plan) == [0, 1]
    assert [len(scheduled.draft) for scheduled in plan] == [0, 0]
    assert own.preemptions == 0


def test_a_draft_gets_blocks_and_gives_back_what_was_not_accepted() -> None:
    own = scheduler(blocks=4)
    add(own, sequence(BLOCK_SIZE - 2, number=0))
    step(own)
    only = own.running[0]
    only.draft = chain([1] * 40, "test")
    plan = own.schedule()
    assert len(plan[0].draft) == 40
    assert len(only.blocks) == 4
    only.tokens += [1, 2]
    only.draft = EMPTY
    own.advance(only, len(only.tokens) - 1)
    assert len(only.blocks) == 2
    assert own.pool.free == 2


def test_a_known_beginning_is_not_computed_again() -> None:
    own = scheduler()
    prompt = list(range(3 * BLOCK_SIZE))
    add(own, sequence(prompt, number=0))
    step(own)
    add(own, sequence([*prompt, 7, 7], number=1), sequence([*prompt[:20], 7], number=2))
    plan = step(own)[1:]
    assert [(s.start, s.count) for s in plan] == [(48, 2), (16, 5)]
    assert plan[0].sequence.blocks[:3] == own.running[0].blocks[:3]


def test_the_last_token_is_always_computed() -> None:
    """Its logits choose the next, so a wholly known prompt still computes its last block."""
    own = scheduler()
    prompt = list(range(2 * BLOCK_SIZE))
    add(own, sequence(prompt, number=0))
    step(own)
    add(own, sequence(prompt, number=1))
    twin = step(own)[1]
    assert (twin.start, twin.count) == (BLOCK_SIZE, BLOCK_SIZE)
    assert twin.sequence.blocks[1] != own.running[0].blocks[1]


def test_beginnings_are_shared_within_one_identity_only() -> None:
    own = scheduler()
    prompt = list(range(40))
    add(own, sequence(prompt, number=0, identity="one"))
    step(own)
    others = [sequence(prompt, number=i, identity=name) for i, name in ((1, "two"), (2, "one"))]
    add(own, sequence(prompt, number=3), *others)
    starts = {s.sequence.request.request_id: s.start for s in step(own)[1:]}
    assert starts == {3: 0, 1: 0, 2: 32}


def test_a_request_for_its_prompts_logprobs_computes_all_of_it_each_time() -> None:
    own = scheduler(blocks=4, budget=16)
    prompt = list(range(30))
    add(own, sequence(prompt, number=0))
    step(own)
    step(own)
    add(own, sequence(prompt, number=1, wants_prefill=True))
    wants = step(own)[1].sequence
    assert (wants.computed, wants.prefill_logprobs) == (16, [])
    wants.prefill_logprobs = [-1.0] * 16
    own.preempt(wants)
    assert wants.prefill_logprobs == [], "what was noted is noted anew"
    assert [(s.start, s.count) for s in step(own)[1:]] == [(0, 16)]


def test_a_sequence_can_leave_from_anywhere() -> None:
    own = scheduler(blocks=2)
    add(own, *(sequence(30, number=i) for i in range(3)))
    step(own)
    waiting = own.waiting[0]
    own.remove(waiting)
    own.remove(own.running[0])
    assert own.pool.free == 2
    assert who(step(own)) == [2]
