"""Who sleeps, who wakes, and what asking is believed to cost."""

from __future__ import annotations

import pytest

from lorax_spec.engine.drafting.asking_cost import AskingCost
from lorax_spec.engine.drafting.luck import Luck
from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.offer import chain_offer
from tests.engine.sequences import sequence
from tests.engine.test_never_slower import Guesser, World

DEAR = 3.0


def lucky() -> tuple[Luck, Sequence, AskingCost]:
    """A luck with one drafter that never paid, and its sequence."""
    guesser = Guesser("guesser", World(1.0, 1), 0.0, 0.5, DEAR)
    luck, cost, one = Luck({"guesser": guesser}), AskingCost(), sequence(4, 1000)
    one.drafters = frozenset({"guesser"})
    for _ in range(2):
        cost.note_turn("guesser", DEAR, in_vain=False)
    luck.begin_turn(1)
    luck.purse.earn(100.0)
    (track,) = luck.tracks(one).values()
    for _ in range(40):
        track.worth_asking(luck.turn, False, DEAR, 1.0, luck.purse)
        track.note_gain(False, 0.0)
    return luck, one, cost


def lately(cost: AskingCost) -> dict[str, float]:
    return {"guesser": cost.lately("guesser")}


def test_a_sequence_sleeps_until_its_drafter_may_be_tried() -> None:
    luck, one, cost = lucky()
    assert luck.may_sleep(one, lately(cost), 1.0)
    slept = 0
    while luck.sleeps(one):
        luck.begin_turn(1)
        slept += 1
    assert 1 <= slept <= 128
    assert not luck.may_sleep(one, lately(cost), 1.0)


@pytest.mark.parametrize(("among", "wakes"), [(1, False), (2, False), (3, True), (50, True)])
def test_another_size_of_batch_wakes_everybody(among: int, wakes: bool) -> None:
    luck, one, cost = lucky()
    assert luck.may_sleep(one, lately(cost), 1.0)
    luck.begin_turn(among)
    assert luck.sleeps(one) is not wakes


def test_a_new_adapter_begins_with_the_usual_luck() -> None:
    luck, _, cost = lucky()
    other = sequence(4, 1000)
    other.drafters = frozenset({"guesser"})
    (track,) = luck.tracks(other).values()
    assert track.gains.weak < 0.1
    assert not track.worth_asking(luck.turn, False, cost.of("guesser", first=True), 1.0, luck.purse)


def test_luck_in_one_company_is_none_in_another() -> None:
    luck, _, _ = lucky()
    luck = Luck({**luck._drafters, "other": Guesser("other", World(1.0, 1), 0.0, 0.5, DEAR)})
    alone, beside = sequence(4, 1000), sequence(4, 1000)
    alone.drafters, beside.drafters = frozenset({"guesser"}), frozenset({"guesser", "other"})
    (track,) = luck.tracks(alone).values()
    before = luck.tracks(beside)["guesser"].gains.weak
    for _ in range(40):
        track.note_gain(False, 3.0)
    later = sequence(4, 1000)
    later.drafters = beside.drafters
    assert luck.tracks(later)["guesser"].gains.weak == before
    later.drafters = alone.drafters
    luck.forget(later)
    assert luck.tracks(later)["guesser"].gains.weak > 2.0


def test_the_first_turn_says_nothing_of_what_turns_cost() -> None:
    cost = AskingCost()
    cost.note_turn("a", 9.0, in_vain=False)
    assert not cost.known("a")
    cost.note_turn("a", 0.5, in_vain=True)
    assert cost.of("a", first=False) == 0.5
    cost.note_turn("a", 0.1, in_vain=True)
    assert cost.of("a", first=False) == 0.5


def test_cost_is_the_mean_of_turns_that_were_not_disturbed() -> None:
    cost = AskingCost()
    for turn in range(200):
        cost.note_turn("a", (0.2, 0.4)[turn % 2], in_vain=False)
    assert cost.of("a", first=False) == pytest.approx(0.3, rel=0.1)
    cost.note_turn("a", 50.0, in_vain=False)
    assert cost.of("a", first=False) < 0.4


def test_the_first_drafter_of_a_sequence_pays_for_the_use_of_offers() -> None:
    cost = AskingCost()
    for _ in range(2):
        cost.note_turn("a", 0.5, in_vain=False)
    cost.note_use(0.25)
    assert cost.of("a", first=True) == 0.75
    assert cost.of("a", first=False) == 0.5


def test_the_more_are_asked_for_the_less_it_costs_each() -> None:
    cost = AskingCost()
    assert cost.of("a", first=False, among=5) == 0.0
    for _ in range(2):
        cost.note_turn("a", 0.8, in_vain=False, among=1)
    # As long a turn for all, until one of that size was seen.
    assert cost.of("a", first=False, among=2) == cost.of("a", first=False, among=3) == 0.4
    assert cost.of("a", first=False, among=8) == 0.1
    cost.note_turn("a", 0.5, in_vain=False, among=5)
    assert cost.of("a", first=False, among=1) == 0.8
    assert cost.of("a", first=False, among=3) == 0.4
    assert cost.of("a", first=False, among=4) == cost.of("a", first=False, among=7) == 0.5
    assert cost.of("a", first=False, among=9) == 0.25


def test_fewer_than_were_ever_asked_for_pay_the_whole_turn() -> None:
    cost = AskingCost()
    for _ in range(2):
        cost.note_turn("a", 0.1, in_vain=False, among=8)
    cost.note_turn("a", 0.1, in_vain=False, among=32)
    assert cost.of("a", first=False, among=1) == pytest.approx(0.8)


def test_a_turn_that_pays_for_none_alone_may_pay_for_several() -> None:
    luck, one, cost = lucky()
    (track,) = luck.tracks(one).values()
    for _ in range(40):
        track.note_gain(False, 0.5 * DEAR)
    assert luck.may_sleep(one, lately(cost), 1.0)
    luck.begin_turn(50)
    assert cost.together("guesser", [DEAR / 3] * 4) == 4
    assert not luck.may_sleep(one, lately(cost), 1.0)
    assert cost.together("guesser", [DEAR / 3]) == 1
    assert luck.may_sleep(one, lately(cost), 1.0)


@pytest.mark.parametrize(
    ("worths", "count"),
    [
        ([], 1),
        ([0.1], 1),
        ([0.7, 0.1], 1),
        ([0.31, 0.0, 0.31, 0.0], 2),
        ([0.16, 0.16, 0.16], 1),
        ([0.16, 0.16, 0.16, 0.16], 4),
        ([0.16, 0.16, 0.31, 0.16, 0.01], 4),
    ],
)
def test_as_many_are_asked_for_together_as_can_pay_their_share(
    worths: list[float], count: int
) -> None:
    """A turn takes 0.6 for one, for two and three 0.3 each, for four and more 0.15 each."""
    cost = AskingCost()
    for _ in range(2):
        cost.note_turn("a", 0.6, in_vain=False)
    assert cost.together("a", worths) == count


def test_what_a_sequences_drafts_brought_counts_for_its_next() -> None:
    """Of two sequences of one adapter, whose drafter says the same of both."""
    guesser = Guesser("guesser", World(1.0, 1), 0.0, 0.5, DEAR)
    luck, two = Luck({"guesser": guesser}), [sequence(4, 1000) for _ in range(2)]
    offer = chain_offer([1, 2], [0.8, 0.8], "guesser")
    tracks = []
    for one in two:
        one.drafters = frozenset({"guesser"})
        tracks += luck.tracks(one).values()
    for _ in range(4):
        for track, came in zip(tracks, (2, 0), strict=True):
            track.promised = 1.5
            track.settle(came)
    lucky_one, unlucky = (track.expect(offer, 4).probabilities[0] for track in tracks)
    assert unlucky < 0.45 < 0.55 < lucky_one
