"""Passes as CUDA graphs: what a step launches, launched at once."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch

from lorax_spec.engine.adapted import Adapted
from lorax_spec.engine.batch import Batch
from lorax_spec.engine.lanes import AdaptedRows
from lorax_spec.engine.replay import Program
from lorax_spec.engine.slots import SlotRows
from lorax_spec.engine.step_ops import Runner

#: Passes before a capture: they compile kernels and let libraries allocate what they need.
_REHEARSALS = 2
#: Graphs kept, those used last.  They share one pool, so what each adds is little, but not nothing.
_MOST_GRAPHS = 128


class CapturedPrograms:
    """A graph for each bucket of rows and each company of adapters, captured when it first comes.

    A graph reads the tensors of the batch that it was captured with; layouts fill these anew for
    every batch of the bucket.  So adapters, drafts and sequences come and go without a capture.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._possible = runner.device.type == "cuda"
        self._graphs: OrderedDict[tuple[object, ...], Program] = OrderedDict()
        self._pool: Any = None
        self._prepared = False

    @property
    def took_longer(self) -> bool:
        return self._prepared

    def find(self, batch: Batch, adapted: Adapted) -> Program | None:
        self._prepared = False
        if not self._possible or batch.bucket is None or not _capturable(batch.lanes, adapted):
            return None
        key = (batch.bucket, _company(batch.lanes))
        if key not in self._graphs:
            self._prepared = True
            if len(self._graphs) == _MOST_GRAPHS:
                self._graphs.popitem(last=False)
            self._graphs[key] = self._captured(batch)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _captured(self, batch: Batch) -> Program:
        runner = self._runner
        rows = torch.arange(len(batch.ids), device=runner.device)

        def run() -> tuple[torch.Tensor, torch.Tensor]:
            return runner.run(batch.ids, batch.positions, rows, runner.attend)

        beside = torch.cuda.Stream(runner.device)
        beside.wait_stream(torch.cuda.current_stream(runner.device))
        with torch.cuda.stream(beside):
            for _ in range(_REHEARSALS):
                run()
        torch.cuda.current_stream(runner.device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = run()
        self._pool = graph.pool()

        def program(*_: torch.Tensor) -> tuple[torch.Tensor, ...]:
            graph.replay()
            return outputs

        return program


def _capturable(lanes: tuple[AdaptedRows, ...], adapted: Adapted) -> bool:
    """Whether nothing of it depends on which adapters these are."""
    changes_input, changes_output = adapted[1:]
    slotted = all(isinstance(one, SlotRows) for one in lanes)
    return slotted and not changes_input and not changes_output


def _company(lanes: tuple[AdaptedRows, ...]) -> tuple[object, ...]:
    """What a capture knows of the adapters: which modules have tables, and their largest rank."""
    found: list[object] = []
    for one in lanes:
        assert isinstance(one, SlotRows)
        tables = one.tables.values()
        found += [len(tables), max((each.most_rank for each in tables), default=0)]
    return tuple(found)
