"""From a plan to the rows of a step, in plain lists: what every way of computing them starts from.

A sequence's rows lie next to each other: its known tokens, then the nodes of its draft.  Rows of
all sequences follow one another in one flattened batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lorax_spec.adapters.weights import LoraWeights
from lorax_spec.engine.scheduler import Scheduled
from lorax_spec.kernels.kv_cache import BLOCK_SIZE

#: Adapters with the rows that run on each.
ByAdapter = list[tuple[LoraWeights, list[int]]]


@dataclass(frozen=True)
class StepRows:
    """One forward pass.

    ``ids``, ``positions``, ``slots``: of every row.  ``starts``: the first row of every scheduled
    sequence, and the number of rows last.  ``kept``: rows whose logits are wanted; those of the
    i-th sequence begin at ``first_kept[i]``, and its draft's node ``n`` comes ``n + 1`` after its
    last known token.  ``adapted``: rows by adapter; ``output_adapted``: of the adapters that change
    the output embedding, by places among the kept rows.
    """

    ids: list[int]
    positions: list[int]
    slots: list[int]
    starts: list[int]
    kept: list[int]
    first_kept: tuple[int, ...]
    adapted: ByAdapter
    output_adapted: ByAdapter

    @property
    def kept_in_order(self) -> bool:
        """The kept rows are the first of all."""
        return self.kept == list(range(len(self.kept)))


def lay_rows(plan: Sequence[Scheduled]) -> StepRows:
    """The rows of ``plan``."""
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    starts = [0]
    kept: list[int] = []
    first_kept: list[int] = []
    adapted: dict[int, tuple[LoraWeights, list[int]]] = {}
    output_adapted: dict[int, tuple[LoraWeights, list[int]]] = {}
    for scheduled in plan:
        sequence, draft = scheduled.sequence, scheduled.draft
        first, start, end = len(ids), scheduled.start, scheduled.start + scheduled.count
        known = len(sequence.tokens)
        ids += sequence.tokens[start:end]
        ids += draft.tokens
        positions += range(start, end)
        positions += (known - 1 + depth for depth in draft.depths)
        slots += slots_of(sequence.blocks, range(start, end))
        slots += slots_of(sequence.blocks, range(known, known + len(draft)))
        starts.append(len(ids))
        rows, before = range(first, len(ids)), len(kept)
        if sequence.prefill_logprobs is not None and sequence.progress.first_token == 0:
            first_kept.append(len(kept) + scheduled.count - 1)
            kept += rows
        else:
            first_kept.append(len(kept))
            kept += rows[scheduled.count - 1 :] if scheduled.samples else ()
        if (lora := sequence.lora) is not None:
            adapted.setdefault(id(lora), (lora, []))[1].extend(rows)
            if lora.changes_output and len(kept) > before:
                own = output_adapted.setdefault(id(lora), (lora, []))
                own[1].extend(range(before, len(kept)))
    return StepRows(
        ids,
        positions,
        slots,
        starts,
        kept,
        tuple(first_kept),
        list(adapted.values()),
        list(output_adapted.values()),
    )


def slots_of(blocks: Sequence[int], indices: Iterable[int]) -> list[int]:
    """Cache slots of a sequence's keys."""
    return [blocks[i // BLOCK_SIZE] * BLOCK_SIZE + i % BLOCK_SIZE for i in indices]
