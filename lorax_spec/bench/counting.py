"""Counts of what drafts brought, free of noise: on answers that do not loop, 16 at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorax_spec.bench.acceptance import tokens_per_forward
from lorax_spec.bench.engine_side import Answer, EngineSide, drive
from lorax_spec.bench.statistics import Estimate, ratio_of_sums
from lorax_spec.bench.workload import Prompt, worth_counting

_AT_ONCE = 16


@dataclass(frozen=True)
class Counted:
    """Answers worth counting, and how many were not."""

    answers: Sequence[Answer]
    left_out: int = 0

    def __add__(self, other: Counted) -> Counted:
        return Counted([*self.answers, *other.answers], self.left_out + other.left_out)

    @property
    def tokens(self) -> Estimate:
        """Per forward pass."""
        return tokens_per_forward(self.answers)

    @property
    def accepted(self) -> Estimate:
        """Drafted tokens per forward pass that were accepted."""
        return ratio_of_sums(
            [one.speculation.accepted_tokens for one in self.answers],
            [one.speculation.forward_passes - 1 for one in self.answers],
        )

    @property
    def drafted(self) -> float:
        """Nodes per forward pass."""
        passes = sum(one.speculation.forward_passes - 1 for one in self.answers)
        return sum(one.speculation.drafted_tokens for one in self.answers) / max(1, passes)

    @property
    def texts(self) -> list[list[int]]:
        return [one.tokens for one in self.answers]


def answers(side: EngineSide, prompts: Sequence[Prompt]) -> list[Answer]:
    """In the order of the prompts; how many run at once changes no count."""
    requests = list(side.requests(prompts))
    groups = [requests[i : i + _AT_ONCE] for i in range(0, len(requests), _AT_ONCE)]
    return [one for group in groups for one in drive(side.core, group)]


def count(side: EngineSide, prompts: Sequence[Prompt]) -> Counted:
    """Let a side answer."""
    found = answers(side, prompts)
    good = [one for one in found if worth_counting(one.tokens)]
    return Counted(good, len(found) - len(good))


def together(counts: Sequence[Counted]) -> Counted:
    """All of them as one."""
    return sum(counts, Counted([]))
