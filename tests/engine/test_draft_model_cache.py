"""What a small model has cached: caught up with in chunks, dropped for others, never wrong."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.engine.blocks import blocks_for
from lorax_spec.engine.sampling import SamplingRule
from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.offer import NOTHING
from tests.engine.small_model import (
    BLOCKS,
    Prompts,
    assert_alike,
    assert_greedy,
    chain_of,
    fresh_offer,
    new_drafter,
    new_sequence,
    offers,
)


def test_a_long_prompt_is_caught_up_with_bit_by_bit(prompts: Prompts) -> None:
    """Meanwhile the others get their offers."""
    prompt = tuple((prompts["code"][0] + prompts["code"][1])[:330])
    long, short = new_sequence(prompt), new_sequence(prompts["doc"][0][:20])
    drafter = new_drafter(catch_up=100)
    for call in range(5):
        of_long, of_short = offers(drafter, [long, short])
        assert_greedy(of_short, short.tokens, 6)
        short.tokens += [*chain_of(of_short)[: call % 3], call]
        if of_long:
            break
        long.tokens.append(5)
    assert call == 3
    assert_greedy(of_long, long.tokens, 6)


def test_the_cache_of_those_that_wait_is_given_to_others(prompts: Prompts) -> None:
    """And is computed anew when they come back."""
    sequences = [new_sequence(prompt[:60]) for prompt in prompts["tests"][:3]]
    drafter = new_drafter(blocks=1 + 2 * blocks_for(60 + 6))
    for sequence in (*sequences, *sequences):
        (offer,) = offers(drafter, [sequence])
        assert_greedy(offer, sequence.tokens, 6)
        sequence.tokens.append(11)
    made = offers(drafter, sequences)
    assert made.count(NOTHING) == 1
    for sequence in sequences:
        drafter.forget(sequence)
    drafter.forget(sequences[0])
    assert all(offers(drafter, sequences[:2]))


def test_the_one_unused_for_longest_is_dropped(prompts: Prompts) -> None:
    first, second, third = (new_sequence(prompt[:60]) for prompt in prompts["tests"][:3])
    drafter = new_drafter(blocks=1 + 2 * blocks_for(60 + 6))
    for sequence in (first, second, first, third):
        offers(drafter, [sequence])
    assert drafter.shadows.of(first).row.blocks
    assert not drafter.shadows.of(second).row.blocks


def test_a_sequence_larger_than_the_cache_is_left_alone(prompts: Prompts) -> None:
    drafter = new_drafter(blocks=4)
    sequence = new_sequence(prompts["tests"][0][:100])
    assert offers(drafter, [sequence]) == [NOTHING]
    assert_greedy(
        offers(drafter, [new_sequence(prompts["tests"][1][:20])])[0], prompts["tests"][1][:20], 6
    )


def test_a_sequence_that_outgrows_the_cache_leaves_it_to_the_others(prompts: Prompts) -> None:
    """And has it back, computed anew, when the others have ended."""
    drafter = new_drafter(blocks=1 + blocks_for(60 + 6) + blocks_for(40))
    first, second = (new_sequence(prompt[:40]) for prompt in prompts["tests"][:2])
    assert all(offers(drafter, [first, second]))
    for sequence in (first, second):
        sequence.tokens += prompts["tests"][2][:20]
    made = offers(drafter, [first, second])
    assert made.count(NOTHING) == 1
    assert drafter.shadows.free == blocks_for(40)
    left_out, other = (first, second) if made[0] == NOTHING else (second, first)
    drafter.forget(other)
    (offer,) = offers(drafter, [left_out])
    assert_alike(offer, fresh_offer(left_out, 6))


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["offer", "offer", "guesses", "others", "forget"]),
        st.integers(0, 7),
        st.integers(1, 7),
    ),
    max_size=14,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS, blocks=st.sampled_from([9, 14, BLOCKS]), catch_up=st.sampled_from([7, 40, 512]))
def test_whatever_happened_the_offer_is_that_of_a_fresh_drafter(
    steps: list[Step], blocks: int, catch_up: int
) -> None:
    """Four sequences, of which bits of ``pick`` choose some: they grow by what was guessed, or by
    anything else, are asked for, are forgotten.  No block is lost."""
    draw = random.Random(repr(steps))
    drafter = new_drafter(blocks, catch_up=catch_up)
    cold = {0: SamplingRule(), 1: SamplingRule(temperature=0.8, seed=9)}
    sequences = [
        new_sequence([draw.randrange(4, 4096) for _ in range(20 * i + 1)], cold[i % 2])
        for i in range(4)
    ]
    guessed: dict[Sequence, list[int]] = {}
    for name, pick, count in steps:
        some = [s for i, s in enumerate(sequences) if (pick + 1) >> i & 1] or sequences
        match name:
            case "offer":
                for sequence, offer in zip(some, offers(drafter, some, count), strict=True):
                    guessed[sequence] = chain_of(offer)
                    if offer:
                        assert_alike(offer, fresh_offer(sequence, count))
            case "guesses":
                for sequence in some:
                    sequence.tokens += guessed.pop(sequence, [])[:count]
            case "others":
                for sequence in some:
                    sequence.tokens += [draw.randrange(4, 4096) for _ in range(count)]
            case "forget":
                for sequence in some:
                    drafter.forget(sequence)
        drafter.shadows.check_integrity()
    for sequence in sequences:
        drafter.forget(sequence)
    assert drafter.shadows.free == blocks - 1
