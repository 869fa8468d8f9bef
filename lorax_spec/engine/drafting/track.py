"""What is known of each drafter's luck with each sequence, and when to try it again."""

from __future__ import annotations

from dataclasses import dataclass, field

from lorax_spec.engine.drafting.drafter import Drafter
from lorax_spec.speculation.acceptance import Acceptance, Promises
from lorax_spec.speculation.offer import NOTHING, Offer
from lorax_spec.speculation.purse import Purse

#: Share of the last turn in the running estimate of what a turn brings, for a sequence, and for all
#: of an adapter, where the first turns count more: as if so many had been seen before.
_QUICK, _STEADY, _SEEN_BEFORE = 0.25, 0.02, 2
#: The most turns that pass without trying a drafter that did not pay.
_LONGEST_REST = 127
#: The most that a new sequence waits with its first trial, and any that there was no time to try.
_LONGEST_FIRST = 15
#: Tokens that a turn might bring at best: a drafter that would not pay even then is not tried.
_AT_BEST = 4.0
#: How much more than it costs a turn must bring: both are estimates.
_WORTH_IT = 1.15
#: Turns that a drafter is asked at in any case before it is judged.
_TRIALS = 6
#: Of what a sequence's drafts bring: drafted nodes for which the adapter's other sequences count,
#: and the share of what is known that a draft makes forget.
_TRUSTED, _FADING = 2.0, 0.05
#: An offer this sure of the next token leaves a second drafter little to add.
_STRONG = 0.6


@dataclass
class Gains:
    """Tokens that a turn brings beyond what its rows cost, where the drafters asked before had a
    weak offer and where they had a strong one."""

    weak: float = 0.5
    strong: float = 0.1

    def after(self, strong: bool) -> float:
        return self.strong if strong else self.weak

    def note(self, strong: bool, gain: float, share: float) -> None:
        if strong:
            self.strong += share * (gain - self.strong)
        else:
            self.weak += share * (gain - self.weak)


@dataclass
class Record:
    """A drafter's luck with all sequences of one adapter; new sequences start from it."""

    acceptance: Acceptance = field(default_factory=lambda: Acceptance(decay=0.995, weight=8.0))
    promises: Promises = field(default_factory=Promises)
    gains: Gains = field(default_factory=Gains)
    #: How long a sequence that finds the drafter of no use lets it rest.
    pause: int = 0
    #: Turns it was asked at, and turns whose gain is known.
    turns: int = 0
    known: int = 0

    def note_gain(self, strong: bool, gain: float) -> None:
        self.known += 1
        self.gains.note(strong, gain, max(_STEADY, 1.0 / (_SEEN_BEFORE + self.known)))


@dataclass
class Track:
    """One drafter's luck with one sequence."""

    drafter: Drafter
    record: Record
    #: The drafter's luck whatever the adapter.
    usual: Record
    acceptance: Acceptance
    gains: Gains
    promises: Promises
    #: How many of its nodes that are drafted now should turn out right.
    promised: float = 0.0
    #: Guesses for the tokens from ``_expected_at`` on, which those will judge.
    _offer: Offer = NOTHING
    _expected_at: int = 0
    #: The batch's turn that drafted of it last, or could have.
    _drafted: int = 0
    #: The batch's turn at which it may be tried again, and how many it slept through.
    _wakes: int = 0
    _pause: int = 0

    @classmethod
    def start(cls, drafter: Drafter, record: Record, usual: Record) -> Track:
        gains = Gains(record.gains.weak, record.gains.strong)
        promises = Promises(record.promises, trusted=_TRUSTED, fading=_FADING)
        return cls(drafter, record, usual, Acceptance(record.acceptance), gains, promises)

    def worth_asking(
        self, now: int, strong: bool, cost: float, seconds_per_token: float, purse: Purse
    ) -> bool:
        """Whether turn ``now`` should bring more than the ``cost`` of asking, in seconds; now and
        then only to find out, as far as the ``purse`` has the time for it.

        A drafter that does not pay is tried after 1, 3, 7 ... turns, and a new sequence begins
        where the others of its adapter have got to.
        """
        if cost > _AT_BEST * seconds_per_token:
            self._wakes = now + _LONGEST_FIRST
            return False
        self.record.turns += 1
        if self.worth(strong, seconds_per_token) > cost:
            self._pause = self.record.pause = 0
            return True
        if self.record.turns > _TRIALS:
            if now < self._wakes:
                return False
            if self._pause == 0:
                self._sleep(now, min(max(1, self.record.pause), _LONGEST_FIRST))
                return False
        if not purse.pay(cost):
            self._wakes = now + _LONGEST_FIRST
            return False
        self._sleep(now, min(2 * self._pause + 1, _LONGEST_REST))
        return True

    def worth(self, strong: bool, seconds_per_token: float) -> float:
        """The most that asking for a turn may cost to pay, in seconds."""
        return self.gains.after(strong) * seconds_per_token / _WORTH_IT

    def settle(self, came: int) -> None:
        """So many of its drafted nodes were right."""
        if self.promised:
            self.promises.note(self.promised, came)
            self.promised = 0.0

    def rests_until(self, now: int, cost: float, seconds_per_token: float) -> int:
        """The turn from which on it may be asked, told at the least cost."""
        if self.worth(False, seconds_per_token) > cost:
            return now
        return self._wakes

    def _sleep(self, now: int, turns: int) -> None:
        self._pause = turns
        self.record.pause = max(turns, self.record.pause)
        self._wakes = now + turns + 1

    def expect(self, offer: Offer, at: int) -> Offer:
        """Remember an offer for the tokens from index ``at`` on; returns it put right."""
        self._offer, self._expected_at = offer, at
        return self.acceptance.corrected(offer, self.promises.kept) if offer else offer

    @property
    def offered(self) -> bool:
        """Whether it had a guess at the last turn."""
        return len(self._offer) > 0

    def judge(self, tokens: list[int]) -> None:
        """Compare the last offer with what came of it."""
        if self._offer and len(tokens) > self._expected_at:
            self.acceptance.judge(self._offer, tokens[self._expected_at :])
        self._offer = NOTHING

    def draft(self, now: int, promised: float) -> None:
        """So many of its nodes that turn ``now`` drafts should turn out right; 0 if none is."""
        if not promised and self.offered:
            self.promises.rest(now - self._drafted)
        self.promised, self._drafted = promised, now

    def note_gain(self, strong: bool, gain: float) -> None:
        """A turn brought so much; ``strong``: a strong offer was there before it."""
        self.gains.note(strong, gain, _QUICK)
        self.record.note_gain(strong, gain)
        self.usual.note_gain(strong, gain)


def is_strong(offer: Offer) -> bool:
    """Whether an offer is sure enough of the next token."""
    return bool(offer) and max(offer.probabilities[: _first_level(offer)], default=0.0) > _STRONG


def _first_level(offer: Offer) -> int:
    """How many nodes lie before the first one that is not a child of the root, at least one."""
    return next((i for i, parent in enumerate(offer.parents) if parent >= 0), len(offer)) or 1
