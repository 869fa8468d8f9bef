"""Passes of few rows, recorded: what captured graphs are to a GPU."""

from __future__ import annotations

import torch

from lorax_spec.engine.adapted import Adapted
from lorax_spec.engine.batch import Batch
from lorax_spec.engine.replay import Program, Recorder
from lorax_spec.engine.step_ops import Runner

#: Up to so many rows a pass is recorded; beyond, the interpreter's share is small.
RECORDED_ROWS = 32
#: Positions that a recording is tried with.
_POSITIONS = 256


class RecordedPrograms:
    """One for each number of rows and each company of adapters, made when it first comes."""

    def __init__(self, runner: Runner) -> None:
        self._prepared = False
        self._runner = runner
        self._programs: dict[tuple[int, Adapted], Program | None] = {}

    @property
    def took_longer(self) -> bool:
        return self._prepared

    def find(self, batch: Batch, adapted: Adapted) -> Program | None:
        rows = len(batch.ids)
        # Adapters of the output embedding know the kept rows only, a recorded pass has all rows.
        alike = batch.kept_in_order or not batch.output_lanes
        self._prepared = False
        if self._runner.device.type != "cpu" or rows > RECORDED_ROWS or not alike:
            return None
        key = (rows, adapted)
        if key not in self._programs:
            self._prepared = True
            with self._runner.detached():
                self._programs[key] = self._recorded(rows, adapted)
        return self._programs[key]

    def _recorded(self, rows: int, adapted: Adapted) -> Program | None:
        """Record on one random input, compare on another; all rows are kept."""
        runner = self._runner
        everything = torch.arange(rows)
        generator = torch.Generator().manual_seed(rows)
        positions = min(_POSITIONS, runner.longest)

        def draw() -> tuple[torch.Tensor, torch.Tensor]:
            return (
                torch.randint(runner.vocabulary, (rows,), generator=generator),
                torch.randint(positions, (rows,), generator=generator),
            )

        inputs = draw()
        with Recorder(inputs) as recorder, runner.adapters.recorded(recorder, adapted):
            outputs = runner.run(*inputs, everything, lambda *a: recorder.leaf(runner.attend, *a))
        program = recorder.program(*outputs)
        other = draw()
        expected, actual = runner.run(*other, everything, runner.attend), program(*other)
        same = all(torch.equal(e, a) for e, a in zip(expected, actual, strict=True))
        return program if same else None
