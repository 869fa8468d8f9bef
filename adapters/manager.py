"""Adapters for a running engine: asked for by the step loop, loaded beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import lru_cache

import torch

from lorax_spec.adapters import infos, integrity
from lorax_spec.adapters.folder import read_folder
from lorax_spec.adapters.lease import Lease
from lorax_spec.adapters.loading import as_fault, load
from lorax_spec.adapters.placing import place_on
from lorax_spec.adapters.residency import Budget, Residency
from lorax_spec.adapters.shape import ModelShape
from lorax_spec.adapters.source import Location, Source
from lorax_spec.adapters.version import Task, Version
from lorax_spec.adapters.weights import AdapterWeights
from lorax_spec.errors import DeadlineExceeded, InternalError, LoraxSpecError, Unavailable
from lorax_spec.types import AdapterInfo, AdapterRef


class AdapterManager:
    """Thread-safe.  Residency says who gets room when, and how long one may have to wait.

    A failed load is remembered for ``retry_after`` seconds, or until the folder changes.  Without
    ``executor``, own threads fetch, read and copy to the device; one given is not shut down.
    """

    def __init__(
        self,
        source: Source,
        shape: ModelShape,
        *,
        dtype: torch.dtype,
        device: torch.device,
        budget: Budget,
        executor: Executor | None = None,
        clock: Callable[[], float] = time.monotonic,
        retry_after: float = 1.0,
        max_overtakes: int = 32,
    ) -> None:
        self._source = source
        self._shape = shape
        self._dtype = dtype
        self._page_locked = device.type == "cuda"
        self._place_on_device = place_on(device)
        self._residency = Residency(budget, max_overtakes)
        self._clock = clock
        self._retry_after = retry_after
        self._changed = threading.Condition()
        self._wakeup: Callable[[], None] = lambda: None
        self._current: dict[tuple[str, str, str], Version] = {}
        self._pins: set[tuple[str, str, str]] = set()
        self._unattended: set[Lease] = set()
        self._closed = False
        self._on_disk = lru_cache(maxsize=4096)(infos.on_disk)
        # A pool to each task, so that no copy waits behind a read, and no read behind a download.
        threads: dict[Task, int] = {"fetch": 4, "read": 2, "place": 1}
        self._own_executors = (
            {}
            if executor
            else {
                task: ThreadPoolExecutor(count, f"adapter-{task}")
                for task, count in threads.items()
            }
        )
        self._executors = {task: executor or self._own_executors[task] for task in threads}
        self._work = {"fetch": self._fetch, "read": self._read, "place": self._copy}

    def set_wakeup(self, callback: Callable[[], None]) -> None:
        """``callback`` runs, on any thread, after some lease became ready or failed."""
        self._wakeup = callback

    def wake(self) -> None:
        """Tell whoever waits for leases that something else has come which a request waits for."""
        self._wakeup()

    def lease(self, refs: tuple[AdapterRef, ...]) -> Lease:
        """Ask for all of ``refs`` together; returns at once, and puts every fault into the lease.

        Its error may be AdapterNotFound, PermissionDenied, AdapterMismatch (it does not fit the
        model, or even alone not the budget), Overloaded (not beside what is pinned), Unavailable
        (closed, or the folder is being rewritten) or InternalError.
        """
        lease = Lease(self._release, self._clock)
        try:
            wanted = [(self._resolve(ref), ref) for ref in refs]
        except LoraxSpecError as error:
            lease.settle(error)
            return lease
        with self._changing() as residency:
            if self._closed:
                lease.settle(_closed())
            else:
                asked = {location.key: (location, ref) for location, ref in wanted}
                versions = {key: self._version(*one) for key, one in asked.items()}
                residency.admit(lease, [versions[location.key] for location, _ in wanted])
        return lease

    def load(self, ref: AdapterRef, timeout: float | None = None, wait: bool = True) -> AdapterInfo:
        """Bring an adapter to the device, from where it may be evicted again later.

        Raises what a lease's error may be, and DeadlineExceeded after ``timeout`` seconds.  Without
        ``wait`` it returns at once, and raises only what is wrong already.
        """
        if not wait:
            return self._begin_load(ref)
        with self._loaded(ref, timeout) as version:
            pass
        return self._info(version)

    def pin(
        self, adapter_id: str, pinned: bool = True, timeout: float | None = None
    ) -> AdapterInfo:
        """Load an adapter and keep it on the device, or let it be evicted again.

        The pin outlives a change of the folder, but not ``unload``.  Raises like ``load``.
        """
        if not pinned:
            return self._unpin(adapter_id)
        with self._loaded(AdapterRef(adapter_id), timeout) as version, self._changing():
            self._pins.add(version.location.key)
            version.pinned = not version.retired
        return self._info(version)

    def unload(self, adapter_id: str) -> None:
        """Unpin and drop an adapter; requests that hold it keep it until they end.

        Raises AdapterNotFound where neither memory nor the source knows it.
        """
        with self._changing() as residency:
            versions = self._versions(adapter_id)
            for version in versions:
                self._pins.discard(version.location.key)
                del self._current[version.location.key]
                residency.retire(version)
        if not versions:
            self._resolve(AdapterRef(adapter_id))

    def check_integrity(self) -> None:
        """Raises InternalError where bytes, leases or states do not add up."""
        with self._changed:
            if found := list(integrity.faults(self._residency, self._current.values())):
                raise InternalError("; ".join(found))

    def close(self) -> None:
        """Fail whatever waits and drop all adapters; leases that are ready stay so."""
        with self._changing() as residency:
            self._closed = True
            residency.fail_unsettled(_closed())
            for version in self._current.values():
                residency.retire(version)
            self._current.clear()
        for executor in self._own_executors.values():
            executor.shutdown(cancel_futures=True)

    def on_device(self) -> tuple[str, ...]:
        """Ids of the adapters on the device, at no cost."""
        with self._changed:
            return tuple(version.location.adapter_id for version in self._residency.device)

    def list(self) -> list[AdapterInfo]:
        """Every adapter in memory or in the source, by id."""
        known = {location.key: self._on_disk(location) for location in self._stored()}
        with self._changed:
            for version in (*self._residency.retired, *self._current.values()):
                known[version.location.key] = self._info(version)
        return sorted(known.values(), key=lambda info: (info.adapter_id, info.source))

    def _stored(self) -> Iterator[Location]:
        for adapter_id in self._source.list():
            with suppress(LoraxSpecError):
                yield self._resolve(AdapterRef(adapter_id))

    def _info(self, version: Version) -> AdapterInfo:
        info = infos.in_memory(version, pinned=version.location.key in self._pins)
        if version.kind:
            return info
        stored = self._on_disk(version.location)
        return replace(info, kind=stored.kind, rank=stored.rank, medusa_heads=stored.medusa_heads)

    def _versions(self, adapter_id: str) -> tuple[Version, ...]:
        return tuple(v for v in self._current.values() if v.location.adapter_id == adapter_id)

    def _unpin(self, adapter_id: str) -> AdapterInfo:
        with self._changing() as residency:
            versions = self._versions(adapter_id)
            for version in versions:
                self._pins.discard(version.location.key)
                version.pinned = False
            residency.advance()
        if versions:
            return self._info(versions[0])
        return self._on_disk(self._resolve(AdapterRef(adapter_id)))

    def _begin_load(self, ref: AdapterRef) -> AdapterInfo:
        lease = self.lease((ref,))
        with self._changing():
            self._unattended.add(lease)
            versions = lease.versions
        if lease.error is not None:
            raise lease.error
        return self._info(versions[0])

    @contextmanager
    def _loaded(self, ref: AdapterRef, timeout: float | None) -> Iterator[Version]:
        """Hold an adapter on the device."""
        lease = self.lease((ref,))
        try:
            with self._changed:
                if not self._changed.wait_for(lambda: lease.settled, timeout):
                    raise DeadlineExceeded(f"adapter {ref.adapter_id} is not loaded yet")
                if lease.error is not None:
                    raise lease.error
                (version,) = lease.versions
            yield version
        finally:
            lease.release()

    @contextmanager
    def _changing(self) -> Iterator[Residency]:
        """Change the state under the lock, then start the work and tell what that has settled."""
        with self._changed:
            yield self._residency
            while done := {lease for lease in self._unattended if lease.settled}:
                self._unattended -= done
                for lease in done:
                    self._residency.release(lease)
            jobs = self._residency.take_jobs()
            for job in () if self._closed else jobs:
                self._executors[job.task].submit(self._work[job.task], job.version)
            settled = self._residency.take_settled()
            if settled:
                self._changed.notify_all()
        if settled:
            self._wakeup()

    def _release(self, lease: Lease) -> None:
        with self._changing() as residency:
            residency.release(lease)

    def _resolve(self, ref: AdapterRef) -> Location:
        try:
            return self._source.resolve(ref)
        except LoraxSpecError:
            raise
        except Exception as error:
            raise as_fault(ref.adapter_id, error) from error

    def _version(self, location: Location, ref: AdapterRef) -> Version:
        """The version that serves ``location`` now, which may be a new one."""
        version = self._current.get(location.key)
        if version is not None:
            recent = self._clock() - version.failed_at < self._retry_after
            if version.location == location and (version.error is None or recent):
                return version
            self._residency.retire(version)
        # A file takes at least two bytes for a number.
        nbytes = location.nbytes * self._dtype.itemsize // 2
        version = Version(ref, location, nbytes, pinned=location.key in self._pins)
        self._current[location.key] = version
        return version

    # The rest runs on the pools' threads.  Whatever goes wrong there, a fault of this code
    # included, fails only the leases that wait for that version.

    def _fetch(self, version: Version) -> None:
        try:
            self._source.fetch(version.location)
        except Exception as error:
            self._load_failed(version, error)
        else:
            with self._changing() as residency:
                residency.fetched(version)

    def _read(self, version: Version) -> None:
        try:
            location, weights = load(
                self._source, version.ref, version.location, self._read_location
            )
        except Exception as error:
            self._load_failed(version, error)
        else:
            with self._changing() as residency:
                version.location = location
                residency.loaded(version, weights)

    def _read_location(self, location: Location) -> AdapterWeights:
        return read_folder(
            self._source.fetch(location),
            self._shape,
            self._dtype,
            self._residency.budget.device_bytes,
            self._page_locked,
        )

    def _load_failed(self, version: Version, error: Exception) -> None:
        fault = as_fault(version.location.adapter_id, error)
        with self._changing() as residency:
            residency.load_failed(version, fault, self._clock())

    def _copy(self, version: Version) -> None:
        try:
            assert version.host is not None, "kept while the copy is on its way"
            weights = self._place_on_device(version.host)
        except Exception as error:
            fault = as_fault(version.location.adapter_id, error)
            with self._changing() as residency:
                residency.place_failed(version, fault)
        else:
            with self._changing() as residency:
                residency.placed(version, weights)


def _closed() -> Unavailable:
    return Unavailable("the adapter manager is closed")
