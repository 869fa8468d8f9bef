"""Every drafter's luck with every sequence, what was learned from those that ended, and who sleeps
for want of luck."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from lorax_spec.engine.drafting.drafter import Drafter, Outcome
from lorax_spec.engine.drafting.speeds import Speeds
from lorax_spec.engine.drafting.track import Gains, Record, Track
from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.purse import Purse

#: Drafters with adapters whose luck is remembered.
_RECORDS = 4096
#: A drafter's name and those of all who draft beside it: what it brings depends on them.
_Company = tuple[str, frozenset[str]]


class Luck:
    """Tracks of live sequences.

    A sequence that no drafter would be asked for sleeps, so that it costs next to nothing, until
    the first of its drafters may be tried again, or the batch becomes twice or half as large: what
    did not pay may do so then.
    """

    def __init__(self, drafters: Mapping[str, Drafter]) -> None:
        self.purse = Purse()
        self._drafters = drafters
        self.speeds = Speeds()
        self._tracks: dict[Sequence, dict[str, Track]] = {}
        self._records: OrderedDict[tuple[_Company, str], Record] = OrderedDict()
        # What a drafter usually brings, whatever the adapter.
        self._usual: dict[_Company, Record] = {}
        self._turn = 0
        self._asleep: dict[Sequence, int] = {}
        self._slept_among = 0

    @property
    def turn(self) -> int:
        """Of the batch, so far."""
        return self._turn

    def begin_turn(self, among: int) -> None:
        """The next turn, of ``among`` sequences."""
        self._turn += 1
        if not among <= 2 * self._slept_among <= 4 * among:
            self._asleep.clear()
            self._slept_among = among

    def saving(self, sequence: Sequence) -> float:
        """What another token saves it, as a share of what it takes without drafts."""
        return self.speeds.saving(sequence, self._turn)

    def sleeps(self, sequence: Sequence) -> bool:
        return self._asleep.get(sequence, 0) > self._turn

    def may_sleep(
        self, sequence: Sequence, costs: Mapping[str, float], seconds_per_token: float
    ) -> bool:
        """Let a sequence sleep if none of its drafters need be asked now; ``costs``: seconds that
        asking each drafter takes."""
        tracks = self._tracks.get(sequence)
        if tracks is None:
            return False
        until = min(
            track.rests_until(self._turn, costs[name], seconds_per_token)
            for name, track in tracks.items()
        )
        if until > self._turn:
            self._asleep[sequence] = until
        return until > self._turn

    def tracks(self, sequence: Sequence) -> Mapping[str, Track]:
        """Of its drafters, by name and from the cheapest on; what they offered at the last turn is
        judged by the tokens that came."""
        tracks = self._tracks.get(sequence)
        if tracks is None:
            names = [name for name in self._drafters if name in sequence.drafters]
            tracks = self._tracks[sequence] = {name: self._start(name, sequence) for name in names}
        for track in tracks.values():
            track.judge(sequence.tokens)
        return tracks

    def observe(self, outcomes: Iterable[Outcome]) -> None:
        """See which of the drafted nodes were right."""
        for outcome in outcomes:
            right = [outcome.draft.drafters[node] for node in outcome.accepted]
            for name, track in self._tracks.get(outcome.sequence, {}).items():
                track.settle(right.count(name))

    def forget(self, sequence: Sequence) -> None:
        """Let go of a sequence that ended, in the drafters too."""
        self._asleep.pop(sequence, None)
        self.speeds.forget(sequence)
        for track in self._tracks.pop(sequence, {}).values():
            track.drafter.forget(sequence)

    def _start(self, name: str, sequence: Sequence) -> Track:
        company = name, sequence.drafters
        usual = self._usual.setdefault(company, Record())
        adapter = sequence.request.medusa or sequence.request.adapter
        key = company, adapter.adapter_id if adapter else ""
        record = self._records.get(key)
        if record is None:
            gains = Gains(usual.gains.weak, usual.gains.strong)
            record = self._records[key] = Record(gains=gains)
        self._records.move_to_end(key)
        if len(self._records) > _RECORDS:
            self._records.popitem(last=False)
        return Track.start(self._drafters[name], record, usual)
