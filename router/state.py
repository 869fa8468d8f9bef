"""How things stand, and what adapters did, as figures."""

from __future__ import annotations

from collections.abc import Sequence

from lorax_spec.router import metrics as m
from lorax_spec.router.adapter_labels import MERGED
from lorax_spec.router.admission import Admission
from lorax_spec.router.pool import WorkerPool
from lorax_spec.types import AdapterMove


def note_moves(metrics: m.Metrics, moves: Sequence[AdapterMove]) -> None:
    """What adapters did on some worker."""
    for move in moves:
        if move.stage == "evict":
            metrics.add(m.EVICTIONS)
            continue
        label = metrics.labels.use(move.adapter_id) if move.adapter_id else MERGED
        metrics.observe(m.LOAD_SECONDS, move.seconds, stage=move.stage)
        metrics.observe(m.ADAPTER_LOAD_SECONDS, move.seconds, adapter=label, stage=move.stage)


def note_state(metrics: m.Metrics, pool: WorkerPool, admission: Admission) -> None:
    """Who is there, and how busy."""
    metrics.set(m.RUNNING, admission.active)
    metrics.set(m.CAPACITY, admission.capacity)
    metrics.set(m.WORKERS, len(pool.connected))
    metrics.set(m.WORKERS_EXPECTED, len(pool.links))
    for link in pool.links:
        load = link.load
        for gauge, value in (
            (m.WORKER_RUNNING, load.running),
            (m.WORKER_WAITING, load.waiting),
            (m.WORKER_FREE_TOKENS, load.free_tokens),
            (m.WORKER_ADAPTERS, len(load.device_adapters)),
        ):
            metrics.set(gauge, value, worker=link.address)
