"""Time to try what is not believed to pay: a small share of all time, and never more."""

from __future__ import annotations

#: Share of all time that trials may take.
_SHARE = 0.01
#: What a new purse holds, once, and the most that is saved up, in steps.
_AT_FIRST, _SAVED = 16.0, 2.0


class Purse:
    """Beliefs go stale, so drafters that do not pay are asked now and then; each trial is paid
    from here, so that however many drafters, adapters and sequences there are, finding out never
    slows the others down by more than a hundredth."""

    def __init__(self) -> None:
        self._seconds: float | None = None

    def earn(self, seconds: float) -> None:
        """A step took so many seconds."""
        if self._seconds is None:
            self._seconds = _AT_FIRST * seconds
        else:
            self._seconds = max(
                self._seconds, min(self._seconds + _SHARE * seconds, _SAVED * seconds)
            )

    def pay(self, seconds: float) -> bool:
        """Take out what a trial costs; False where there is not enough."""
        if self._seconds is None or seconds > self._seconds:
            return False
        self._seconds -= seconds
        return True
