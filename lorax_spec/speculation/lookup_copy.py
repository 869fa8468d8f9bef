"""Following a copy through its changes.

A text that edits another copies it, changes a few tokens, and goes on copying behind them.  After
a change no suffix matches, yet the place to go on is known; and what was replaced once is often
replaced in the same way again, as in a renaming.
"""

from __future__ import annotations

from dataclasses import dataclass

from lorax_spec.speculation.lookup_index import BORDER

#: A copy at least this long is come back to after a change.
_WORTH_RESUMING = 2
#: A change is given up after so many new tokens, and may drop so many old ones.
_LONGEST_CHANGE = 10
_MOST_DROPPED = 5


@dataclass
class Swap:
    """``old`` was replaced by ``new``, ``used`` times; ``kept`` times it stayed as it was."""

    old: list[int]
    new: list[int]
    used: int = 1
    kept: int = 0

    @property
    def chance(self) -> float:
        """That it is replaced the next time."""
        return (self.used + 0.5) / (self.used + self.kept + 1)


class Copying:
    """Where a text copies itself from; positions are those of the text, and 0 stands for none.

    ``source`` is what comes next if the copy goes on, the last ``length`` tokens being copied.
    While the text differs, ``left`` is the first token of the source that was not copied, and
    ``changed_at`` the first of the text that stands in its place.  ``swaps`` holds the changes
    seen so far by the first token that they replace.
    """

    def __init__(self) -> None:
        self.source = 0
        self.length = 0
        self.left = 0
        self.changed_at = 0
        self.swaps: dict[int, Swap] = {}
        # While one token says that the copy goes on: where it does, and that token's place.
        self._resumed: tuple[int, int] | None = None

    @property
    def doubtful(self) -> bool:
        """A single token says that the copy goes on behind a change."""
        return self._resumed is not None

    def offer(self, source: int, length: int, end: int) -> None:
        """Take ``source``, which the last ``length`` of ``end`` tokens match, as what is copied,
        unless a copy is under way or better explains what is there."""
        begun_before_change = length > end - self.changed_at
        if not self.source and length > 1 and (not self.left or begun_before_change):
            self.source, self.length, self.left = source, length, 0

    def resumptions(self, text: list[int], changed: list[int]) -> list[tuple[int, bool]]:
        """Where the copy may go on after ``changed`` took the place of something, and whether the
        same has replaced something before."""
        places: list[tuple[int, bool]] = []
        for swap in self.swaps.values():
            if swap.new == changed:
                same = text[self.left : self.left + len(swap.old)] == swap.old
                places.append((self.left + (len(swap.old) if same else 1), True))
                break
        known = self.swaps.get(text[self.left])
        for dropped in {1, len(known.old)} if known is not None else {1}:
            place = self.left + dropped
            if place < self.changed_at and text[place] != BORDER:
                places.append((place, False))
        return places

    def follow(self, text: list[int], start: int) -> None:
        """See how the tokens of ``text`` from ``start`` on continue the copy."""
        for place in range(start, len(text)):
            token = text[place]
            if self.source:
                self._continue(text, place, token)
            elif self.left:
                self._look_for_resumption(text, place, token)

    def _continue(self, text: list[int], place: int, token: int) -> None:
        expected = text[self.source]
        swap = self.swaps.get(expected)
        if swap is not None and text[self.source : self.source + len(swap.old)] == swap.old:
            swap.used += token == swap.new[0]
            swap.kept += token == expected
        if token == expected:
            self.source += 1
            self.length += 1
            if self._resumed is not None:
                self._note_swap(text, *self._resumed)
                self._resumed, self.left = None, 0
        elif self._resumed is not None:
            self._resumed, self.source = None, 0
            self._look_for_resumption(text, place, token)
        else:
            if self.length >= _WORTH_RESUMING:
                self.left, self.changed_at = self.source, place
                self.source = 0
                self._look_for_resumption(text, place, token)
            self.source = 0 if not self._resumed else self.source

    def _look_for_resumption(self, text: list[int], place: int, token: int) -> None:
        if place - self.changed_at > _LONGEST_CHANGE:
            self.left = 0
            return
        last = min(self.left + _MOST_DROPPED + 1, self.changed_at)
        for at in range(self.left, last):
            if text[at] == BORDER:
                return
            if text[at] == token:
                self._resumed = (at, place)
                self.source, self.length = at + 1, 1
                return

    def _note_swap(self, text: list[int], at: int, place: int) -> None:
        old, new = text[self.left : at], text[self.changed_at : place]
        if old and new:
            known = self.swaps.get(old[0])
            if known is None or known.old != old or known.new != new:
                self.swaps[old[0]] = Swap(old, new)
