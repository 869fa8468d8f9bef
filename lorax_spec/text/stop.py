"""Stop strings over a stream of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class StopStrings(Generic[Item]):
    """Holds items back while their text may be the beginning of a stop string.

    Each pushed item brings some text.  What comes back are the items, in order, with the text that
    may be shown.  When a stop string is complete, the text ends right before it, the item that
    completed it is the last, and ``matched`` is True.  The first stop string to be complete counts,
    and of those that end together the longest, so the result depends neither on how the text is cut
    into tokens nor on how the tokens are cut into steps.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._patterns = [_Pattern(stop) for stop in stops]
        self._held: list[tuple[Item, str]] = []
        self._held_length = 0
        self._growing = False
        self.matched = False

    def push(self, item: Item, text: str, *, growing: bool = False) -> list[tuple[Item, str]]:
        """Items that are certain now.  After a match no more may be pushed.

        A ``growing`` item may still get more text from ``flush``: it waits for its successor.
        """
        self._held.append((item, ""))
        self._growing = growing
        return self._extend_last(text)

    def flush(self, text: str = "") -> list[tuple[Item, str]]:
        """The rest, when no more items come; ``text`` is what the growing item still got."""
        released = self._extend_last(text) if text else []
        return released + self._release(self._held_length, everything=True)

    def _extend_last(self, text: str) -> list[tuple[Item, str]]:
        item, before = self._held[-1]
        self._held[-1] = (item, before + text)
        start = self._held_length
        self._held_length += len(text)
        for read, character in enumerate(text, start=1):
            complete = [pattern.length for pattern in self._patterns if pattern.feed(character)]
            if complete:
                self.matched = True
                return self._release(start + read - max(complete), everything=True)
        undecided = max((pattern.state for pattern in self._patterns), default=0)
        return self._release(self._held_length - undecided, everything=False)

    def _release(self, limit: int, *, everything: bool) -> list[tuple[Item, str]]:
        """Items whose text ends by ``limit``; or every item, its text cut there."""
        released: list[tuple[Item, str]] = []
        position = 0
        candidates = self._held[:-1] if self._growing and not everything else self._held
        for item, text in candidates:
            if not everything and position + len(text) > limit:
                break
            released.append((item, text[: max(0, limit - position)]))
            position += len(text)
        self._held = self._held[len(released) :]
        self._held_length -= position
        return released


class _Pattern:
    """Finds one string in a stream of characters (Knuth, Morris, Pratt 1977).

    ``state`` is the length of the longest beginning of the string that the stream ends in.
    """

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._fallback = [0] * len(pattern)
        self.length = len(pattern)
        self.state = 0
        matched = 0
        for index in range(1, len(pattern)):
            matched = self._advance(matched, pattern[index])
            self._fallback[index] = matched

    def feed(self, character: str) -> bool:
        """Whether the string is complete with this character."""
        self.state = self._advance(self.state, character)
        return self.state == self.length

    def _advance(self, state: int, character: str) -> int:
        while state and self._pattern[state] != character:
            state = self._fallback[state - 1]
        return state + 1 if self._pattern[state] == character else 0
