"""From a plan to a step's tensors, for kernels: ragged rows, padded to sizes that come again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorax_spec.engine.batch import Batch
from lorax_spec.engine.lanes import AdaptedRows, lay_lanes
from lorax_spec.engine.rows import ByAdapter, StepRows, lay_rows
from lorax_spec.engine.scheduler import Scheduled
from lorax_spec.engine.slots import AdapterSlots, SlotRows, fits_slots
from lorax_spec.engine.step_inputs import Shapes, StepInputs
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.kernels.lora_rows import TILE_ROWS, Grouping, group_rows, most_tiles
from lorax_spec.kernels.ragged import MASK_BITS, RaggedRows
from lorax_spec.speculation.tree import ROOT, DraftTree

#: Steps of at most so many rows are padded to one of these, if all of their rows say something.
BUCKETS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
#: The last known token with its draft.
_MOST_DECODING_ROWS = 1 + MASK_BITS


def bucket_of(rows: int) -> int | None:
    """The smallest bucket for so many rows."""
    return next((bucket for bucket in BUCKETS if bucket >= rows), None)


@dataclass(frozen=True)
class Form:
    """What launches are sized by.  ``bucket``: a captured graph may serve such a step."""

    rows: int
    sequences: int
    longest_query: int
    blocks: int
    bucket: bool


class RaggedLayout:
    """Lays out plans for kernels.

    Steps of one form share their tensors, so a batch holds until the next is laid out.
    """

    def __init__(
        self,
        most_tokens: int,
        slots: AdapterSlots,
        slot_count: int,
        device: torch.device,
        *,
        padded: bool,
    ) -> None:
        """``most_tokens``: no sequence is longer.  ``padded``: there are buckets."""
        self.slots = slots
        self._padded = padded
        self._slot_count = slot_count
        self._blocks = -(-(most_tokens + MASK_BITS) // BLOCK_SIZE)
        self._device = device
        self._inputs: dict[Form, StepInputs] = {}

    def __call__(self, plan: Sequence[Scheduled]) -> Batch:
        rows = lay_rows(plan)
        form = self._form(plan, rows)
        inputs = self._inputs_of(form, rows.adapted)
        self._fill(inputs, form, plan, rows)
        lanes = self._lanes(inputs, form, rows.adapted)
        inputs.send()
        return Batch(
            ids=inputs["ids"],
            positions=inputs["positions64"],
            slots=inputs["slots"],
            kept=inputs["kept"][: len(rows.kept)],
            first_kept=rows.first_kept,
            lanes=lanes,
            output_lanes=tuple(lay_lanes(rows.output_adapted, False, self._device)),
            kept_in_order=rows.kept_in_order,
            ragged=RaggedRows(
                row_starts=inputs["row_starts"],
                draft_starts=inputs["draft_starts"],
                known=inputs["known"],
                positions=inputs["positions"],
                ancestors=inputs["ancestors"],
                block_tables=inputs["block_tables"],
                longest_query=form.longest_query,
                longest_context=form.blocks * BLOCK_SIZE,
            ),
            bucket=(form.rows, form.sequences) if form.bucket else None,
        )

    def _form(self, plan: Sequence[Scheduled], rows: StepRows) -> Form:
        count, longest = len(rows.ids), max(one.count + len(one.draft) for one in plan)
        bucket, sequences = bucket_of(count), bucket_of(len(plan))
        decoding = len(rows.kept) == count and longest <= _MOST_DECODING_ROWS
        if not self._padded or bucket is None or sequences is None or not decoding:
            return Form(count, len(plan), longest, self._blocks, False)
        return Form(bucket, sequences, min(bucket, _MOST_DECODING_ROWS), self._blocks, True)

    def _inputs_of(self, form: Form, adapted: ByAdapter) -> StepInputs:
        """Kept where the form comes again; prompts are of all lengths."""
        if not form.bucket:
            tiles = sum(-(-len(rows) // TILE_ROWS) for _, rows in adapted)
            return StepInputs(_shapes(form, tiles), self._device)
        if form not in self._inputs:
            tiles = most_tiles(form.rows, self._slot_count)
            self._inputs[form] = StepInputs(_shapes(form, tiles), self._device)
        return self._inputs[form]

    def _fill(
        self, inputs: StepInputs, form: Form, plan: Sequence[Scheduled], rows: StepRows
    ) -> None:
        inputs.fill("ids", rows.ids)
        inputs.fill("positions64", rows.positions)
        inputs.fill("positions", rows.positions)
        inputs.fill("slots", rows.slots, pad=-1)
        inputs.fill("kept", rows.kept)
        inputs.fill("row_starts", rows.starts, pad=rows.starts[-1])
        drafts = [first + one.count for first, one in zip(rows.starts, plan, strict=False)]
        inputs.fill("draft_starts", drafts, pad=rows.starts[-1])
        inputs.fill("known", [one.start + one.count for one in plan])
        masks: list[int] = []
        for one in plan:
            masks += [0] * one.count + _ancestors(one.draft)
        inputs.fill("ancestors", masks)
        inputs.fill_rows("block_tables", [one.sequence.blocks[: form.blocks] for one in plan])

    def _lanes(self, inputs: StepInputs, form: Form, adapted: ByAdapter) -> tuple[AdaptedRows, ...]:
        slotted = [one for one in adapted if fits_slots(one[0])]
        others = [one for one in adapted if not fits_slots(one[0])]
        lanes: list[AdaptedRows] = list(lay_lanes(others, False, self._device))
        if slotted:
            slot_of_row = [-1] * form.rows
            slots = self.slots.slots_of([lora for lora, _ in slotted])
            for slot, (_, own) in zip(slots, slotted, strict=True):
                for row in own:
                    slot_of_row[row] = slot
            found = group_rows(slot_of_row, len(inputs["tile_slots"]))
            for name, tensor in vars(found).items():
                inputs.fill(name, tensor)
            grouping = Grouping(**{name: inputs[name] for name in vars(found)})
            lanes.append(SlotRows(self.slots.tables, grouping))
        return tuple(lanes)


def _shapes(form: Form, tiles: int) -> Shapes:
    rows, sequences = (form.rows,), (form.sequences,)
    wide, narrow = torch.int64, torch.int32
    return {
        "ids": (wide, rows),
        "positions64": (wide, rows),
        "positions": (narrow, rows),
        "slots": (wide, rows),
        "kept": (wide, rows),
        "ancestors": (wide, rows),
        "row_starts": (narrow, (form.sequences + 1,)),
        "draft_starts": (narrow, sequences),
        "known": (narrow, sequences),
        "block_tables": (narrow, (form.sequences, form.blocks)),
        "order": (narrow, rows),
        "tile_slots": (narrow, (tiles,)),
        "tile_starts": (narrow, (tiles,)),
        "tile_counts": (narrow, (tiles,)),
    }


def _ancestors(draft: DraftTree) -> list[int]:
    """Of every node a bit for each node on its path, as a signed 64-bit number."""
    masks: list[int] = []
    for node, parent in enumerate(draft.parents):
        masks.append((masks[parent] if parent != ROOT else 0) | 1 << node)
    return [mask - (1 << 64) if mask >> 63 else mask for mask in masks]
