"""Which clock to believe on a shared machine, and when a ratio says that something is slower."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from lorax_spec.bench.statistics import Estimate

#: Speculation that is on may be this much slower, by what two runs of one thing differ.
FLOOR = 0.98
#: A null that strays further from 1 says that the wall's clock measures the neighbours.
_QUIET = 0.03


class Clock(enum.StrEnum):
    WALL = "wall"
    CPU = "cpu"


@dataclass(frozen=True)
class Ratio:
    """Speed by that of the same engine without drafts, and that engine by itself: the null.

    Each by the wall's clock and by the thread's processor time.
    """

    wall: Estimate
    cpu: Estimate
    null_wall: Estimate
    null_cpu: Estimate

    @property
    def clock(self) -> Clock:
        """The wall's, unless its null is wider than 3 %."""
        return Clock.WALL if margin(self.null_wall) <= _QUIET else Clock.CPU

    @property
    def judged(self) -> Estimate:
        return self.wall if self.clock is Clock.WALL else self.cpu

    @property
    def noise(self) -> float:
        """How far from 1 the null of the judging clock goes."""
        return margin(self.null_wall if self.clock is Clock.WALL else self.null_cpu)

    @property
    def is_slower(self) -> bool:
        """Below the floor by more than the noise, and with all of its interval."""
        return self.judged.value < FLOOR - self.noise and self.judged.high < FLOOR


def margin(null: Estimate) -> float:
    """The farther end of its interval from 1."""
    return max(abs(null.low - 1.0), abs(null.high - 1.0))
