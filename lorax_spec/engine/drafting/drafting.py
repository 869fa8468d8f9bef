"""The draft step: asks the drafters, merges what they offer, and spends the batch's budget."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import torch

from lorax_spec.engine.clock import Clock
from lorax_spec.engine.drafting.asking_cost import AskingCost
from lorax_spec.engine.drafting.drafter import Drafter, Outcome, Turn
from lorax_spec.engine.drafting.luck import Luck
from lorax_spec.engine.drafting.track import Track, is_strong
from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.audit import Audit
from lorax_spec.speculation.controller import Base, Wish, allocate, price, seconds_per_token
from lorax_spec.speculation.cost import StepCost
from lorax_spec.speculation.offer import Offer, best, tree_of
from lorax_spec.speculation.pooling import gain_over, merge
from lorax_spec.speculation.tree import EMPTY, MAX_NODES

#: Most tokens ahead where neither request nor server says how many.
FARTHEST = 16
#: From this price of a row on no guess can pay: none is that sure.
_TOO_DEAR = 0.97
#: Rows that the controller's drafts of a whole batch may fill, and those of one sequence.
_BATCH_NODES, _MOST_NODES, _FEWEST_NODES = 96, 32, 4
#: Turns for which the price of a row is believed.
_PRICED_FOR = 8
#: Share of that price from which on a drafter's own guess is of use: it may be put right upwards.
_OF_USE = 0.5
#: Prompt rows for each sequence with which a step still says whether drafting pays.
_FEW_PROMPT_ROWS = 2

#: Prunes an offer to what a sequence may go on with (its grammar).
Allow = Callable[[Sequence, Offer], Offer]


@dataclass(frozen=True)
class Step:
    """What became of a step: its rows, those of drafts among them, the sequences that had rows,
    those of them that chose tokens and the tokens they chose, and the context of each path (each
    sequence's first)."""

    rows: int
    drafted: int
    scheduled: int
    sequences: int
    tokens: int
    contexts: Rows[int]

    @property
    def prompt_rows(self) -> int:
        return self.rows - self.drafted - self.sequences


@dataclass
class _Asked:
    """A sequence whose draft is being made.

    ``per_token``: the seconds that one more token saves it.  ``tried`` names the drafters asked so
    far, and whether a strong offer was there before them.
    """

    turn: Turn
    tracks: Mapping[str, Track]
    per_token: float
    offers: list[Offer] = field(default_factory=list)
    tried: dict[str, bool] = field(default_factory=dict)


class Drafting:
    """Gives every decoding sequence its next draft.

    A request that gives ``num_tokens`` gets exactly that many nodes, as far as its drafters have
    them; the others share the budget that makes the batch fastest.  Drafters are asked from the
    cheapest to the dearest, and only where what they brought so far is worth the asking.
    """

    def __init__(
        self,
        drafters: Rows[Drafter],
        cost: StepCost,
        clock: Clock,
        most_ahead: int = 0,
        allow: Allow | None = None,
    ) -> None:
        """``drafters`` from the cheapest on; ``most_ahead``: the server's bound, 0 for none."""
        self.cost = cost
        self._clock = clock
        self._drafters = {drafter.name: drafter for drafter in drafters}
        self._most_ahead = most_ahead or FARTHEST
        self._allow = allow
        self._luck = Luck(self._drafters)
        self._asking_cost = AskingCost()
        # Whether drafting pays is one question for each size of batch, by its binary digits.
        self._audits = defaultdict[int, Audit](Audit)
        self._audit = self._audits[0]
        self._spent = 0.0
        self._asked_freely = False
        # Rows, the turn until which their price holds, and that.
        self._priced = 0, 0, 0.0

    @property
    def names(self) -> frozenset[str]:
        """The drafters at hand."""
        return frozenset(self._drafters)

    def observe(self, outcomes: Rows[Outcome]) -> None:
        """Show drafters what became of the drafts they had a part in."""
        self._luck.observe(outcomes)
        for name, drafter in self._drafters.items():
            mine = [outcome for outcome in outcomes if name in outcome.draft.drafters]
            if mine:
                drafter.observe(mine)

    def forget(self, sequence: Sequence) -> None:
        """Let go of a sequence that ended."""
        self._luck.forget(sequence)

    def draft(self, rows: Rows[tuple[Sequence, torch.Tensor]], other_rows: int) -> None:
        """Set the next draft of every sequence; each comes with the hidden state [hidden_size] of
        the row its last token was chosen from.  ``other_rows``: those of prompts in the next step.
        """
        began = self._clock()
        given: list[tuple[Sequence, torch.Tensor]] = []
        free: list[tuple[Sequence, torch.Tensor]] = []
        self._luck.begin_turn(len(rows))
        self._audit = self._audits[len(rows).bit_length()]
        for sequence, hidden in rows:
            sequence.draft = EMPTY
            if self._luck.sleeps(sequence):
                continue
            if sequence.drafters and sequence.draft_room > 0:
                number = sequence.request.speculation.num_tokens
                (free if number is None else given).append((sequence, hidden))
        self._asked_freely = False
        if not (given or free):
            self._spent = self._clock() - began
            return
        paths = self.cost.paths(len(sequence.tokens) for sequence, _ in rows)
        base = Base(len(rows) + other_rows, float(len(rows)), paths)
        if given:
            base = self._draft_given(given, base)
        if free and self._price(base) < _TOO_DEAR and self._audit.allows():
            self._asked_freely = self._draft_free(free, base)
        self._spent = self._clock() - began

    def note_step(self, step: Step, seconds: float) -> None:
        """Learn from a step, of so many seconds without drafting, what steps cost, and whether its
        drafts were worth it."""
        paths = self.cost.paths(step.contexts)
        if step.prompt_rows <= _FEW_PROMPT_ROWS * step.sequences:
            alone = self.cost.seconds(step.rows - step.drafted, step.sequences)
            alone += self.cost.paths(step.contexts[: step.scheduled])
            rounds = step.tokens / step.sequences
            # What requests ordered by number is not the controller's to answer for.  To ask in vain
            # is a part of drafting.
            if self._asked_freely or not step.drafted:
                self._audit.note(self._asked_freely, (seconds + self._spent) / alone, rounds)
            if not step.prompt_rows:
                self._luck.speeds.note_step((seconds + self._spent) / alone)
        if not step.prompt_rows:
            self._luck.purse.earn(seconds + self._spent)
        plain = step.rows == step.sequences
        self.cost.note(step.rows, step.tokens, paths, seconds, plain=plain)

    def _price(self, base: Base) -> float:
        """Looked at anew for another number of rows, and now and then: it moves slowly."""
        rows, until, known = self._priced
        if base.rows != rows or self._luck.turn >= until:
            known = price(base, self.cost)
            self._priced = base.rows, self._luck.turn + _PRICED_FOR, known
        return known

    def _draft_given(self, rows: Rows[tuple[Sequence, torch.Tensor]], base: Base) -> Base:
        """Exactly what was asked for; returns ``base`` with it."""
        asked = []
        for sequence, hidden in rows:
            count = min(sequence.request.speculation.num_tokens or 0, MAX_NODES - 1)
            if count:
                depth = min(count, sequence.draft_room)
                asked.append(self._open(Turn(sequence, hidden, count, depth)))
        for name in self._drafters:
            self._ask(name, asked)
        nodes, tokens, paths = 0, 0.0, 0.0
        for one in asked:
            offer = self._merged(one)
            draft = best(offer, one.turn.nodes)
            one.turn.sequence.draft = draft
            nodes += len(draft)
            tokens += sum(sorted(offer.reach, reverse=True)[: len(draft)])
            paths += max(0, len(draft.paths) - 1) * self.cost.path(len(one.turn.sequence.tokens))
        return Base(base.rows + nodes, base.tokens + tokens, base.paths + paths)

    def _draft_free(self, rows: Rows[tuple[Sequence, torch.Tensor]], base: Base) -> bool:
        """As much as makes the batch fastest.  Returns whether any drafter was asked."""
        nodes = max(_FEWEST_NODES, min(_MOST_NODES, _BATCH_NODES // len(rows)))
        least = _OF_USE * self._price(base)
        alone = seconds_per_token(base, self.cost)
        costs = {name: self._asking_cost.lately(name) for name in self._drafters}
        asked = []
        for sequence, hidden in rows:
            per_token = alone * self._luck.saving(sequence)
            if not self._luck.may_sleep(sequence, costs, per_token):
                depth = min(sequence.draft_room, self._most_ahead)
                asked.append(self._open(Turn(sequence, hidden, nodes, depth, least), per_token))
        for name in self._drafters:
            self._ask(name, self._willing(name, asked))
        tried = [one for one in asked if one.tried]
        if not tried:
            return False
        began = self._clock()
        for one in tried:
            if not one.offers:
                for name, strong in one.tried.items():
                    one.tracks[name].note_gain(strong, 0.0)
        offering = [one for one in tried if one.offers]
        offers = [self._merged(one) for one in offering]
        wishes = [
            Wish(offer, len(one.turn.sequence.tokens))
            for one, offer in zip(offering, offers, strict=True)
        ]
        chosen, dear = allocate(wishes, base, self.cost)
        for one, offer, nodes_of_one in zip(offering, offers, chosen, strict=True):
            self._use(one, offer, nodes_of_one, dear)
        self._asking_cost.note_use((self._clock() - began) / len(tried))
        return True

    def _willing(self, name: str, asked: Rows[_Asked]) -> list[_Asked]:
        """For whom a drafter is worth asking."""
        able = [
            (one, track, any(map(is_strong, one.offers)))
            for one in asked
            if (track := one.tracks.get(name)) is not None
        ]
        if not able:
            return []
        worths = [track.worth(strong, one.per_token) for one, track, strong in able]
        among = self._asking_cost.together(name, worths)
        further, first = (
            self._asking_cost.of(name, first=first, among=among) for first in (False, True)
        )
        turn, purse = self._luck.turn, self._luck.purse
        willing = []
        for one, track, strong in able:
            cost = further if one.tried else first
            if track.worth_asking(turn, strong, cost, one.per_token, purse):
                one.tried[name] = strong
                willing.append(one)
                if not self._asking_cost.known(name):
                    break  # one turn tells what the others would cost
        return willing

    def _use(self, one: _Asked, offer: Offer, nodes: list[int], dear: float) -> None:
        """Draft the ``nodes`` of an offer, ``dear`` each, and see whose they are."""
        one.turn.sequence.draft = tree_of(offer, nodes)
        reach, drafters = offer.reach, offer.drafters
        promised: dict[str, float] = {}
        for node in nodes:
            promised[drafters[node]] = promised.get(drafters[node], 0.0) + reach[node]
        for name, strong in one.tried.items():
            track = one.tracks[name]
            gain = 0.0
            if nodes and track.offered:
                others = merge([other for other in one.offers if name not in other.drafters])
                gain = gain_over(others, offer, nodes, dear)
            track.draft(self._luck.turn, promised.get(name, 0.0))
            track.note_gain(strong, gain)

    def _open(self, turn: Turn, per_token: float = 0.0) -> _Asked:
        return _Asked(turn, self._luck.tracks(turn.sequence), per_token)

    def _ask(self, name: str, asked: Rows[_Asked]) -> None:
        """Add one drafter's offers."""
        pairs = [(one, track) for one in asked if (track := one.tracks.get(name)) is not None]
        if not pairs:
            return
        started = self._clock()
        offers = self._drafters[name].offer([one.turn for one, _ in pairs])
        seconds = (self._clock() - started) / len(pairs)
        among = len(pairs)
        self._asking_cost.note_turn(name, seconds, in_vain=not any(offers), among=among)
        for (one, track), offer in zip(pairs, offers, strict=True):
            offer = track.expect(offer, len(one.turn.sequence.tokens))
            if offer:
                one.offers.append(offer)

    def _merged(self, one: _Asked) -> Offer:
        offer = merge(one.offers)
        if self._allow is not None and offer:
            return self._allow(one.turn.sequence, offer)
        return offer
