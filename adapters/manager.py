"""Adapters for a running engine: asked for by the step loop, loaded beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from functools import partial

import torch

from lorax_spec.adapters import infos, integrity
from lorax_spec.adapters.catalogue import Catalogue
from lorax_spec.adapters.chats import Chats
from lorax_spec.adapters.lease import Lease
from lorax_spec.adapters.loader import Loader
from lorax_spec.adapters.loading import as_fault
from lorax_spec.adapters.lookups import Asked, LookUps, Ref, parts_of
from lorax_spec.adapters.placing import place_on
from lorax_spec.adapters.residency import Residency
from lorax_spec.adapters.room import Budget
from lorax_spec.adapters.shape import ModelShape
from lorax_spec.adapters.source import Location, Source
from lorax_spec.adapters.threads import LoadThreads
from lorax_spec.adapters.version import Version
from lorax_spec.errors import (
    AdapterNotFound,
    DeadlineExceeded,
    InternalError,
    LoraxSpecError,
    Unavailable,
)
from lorax_spec.types import AdapterChat, AdapterInfo, AdapterMove, AdapterRef


class AdapterManager:
    """Thread-safe.  Residency says who gets room when, and how long one may have to wait.

    A failed load is remembered for ``retry_after`` seconds, or until the folder changes.  Without
    ``executor``, own threads look up, fetch, read and copy to the device; one given is not shut
    down.
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
        cycle_time: float = 2.0,
    ) -> None:
        self._source = source
        page_locked = device.type == "cuda"
        self._loader = Loader(source, shape, dtype, budget.device_bytes, page_locked)
        self._place_on_device = place_on(device)
        self._residency = Residency(budget, cycle_time, clock)
        self._clock = clock
        self._retry_after = retry_after
        self._changed = threading.Condition()
        self._wakeup: Callable[[], None] = lambda: None
        self._look_ups = LookUps()
        # A file takes at least two bytes for a number.
        self._catalogue = Catalogue(dtype.itemsize / 2)
        self._unattended: set[Lease] = set()
        self._chats = Chats()
        self._closed = False
        self._threads = LoadThreads(executor)
        self._work = {"fetch": self._fetch, "read": self._read, "place": self._copy}

    def set_wakeup(self, callback: Callable[[], None]) -> None:
        """``callback`` runs, on any thread, after some lease became ready or failed."""
        self._wakeup = callback

    def wake(self) -> None:
        """Tell whoever waits for leases that something else has come which a request waits for."""
        self._wakeup()

    def lease(self, refs: tuple[Ref, ...]) -> Lease:
        """Ask for all of ``refs`` together; returns at once, and puts every fault into the lease.

        Its error may be AdapterNotFound, PermissionDenied, InvalidArgument, AdapterMismatch (it
        does not fit the model, or even alone not the budget), Overloaded (not beside what is
        pinned), Unavailable (closed, the folder is being rewritten, or who has the adapter does not
        answer) or InternalError.
        """
        lease = Lease(self._release, self._clock)
        try:
            found = {part: self._resolve(part) for ref in refs for part in parts_of(ref)}
        except LoraxSpecError as error:
            lease.settle(error)
            return lease
        asked = Asked(lease, refs, found)
        with self._changing():
            if self._closed:
                lease.settle(_closed())
            elif None in found.values():
                self._look_ups.add(asked)
            else:
                self._admit(asked)
        return lease

    @property
    def recalled(self) -> frozenset[Lease]:
        """Leases that others wait for, to be given back where they have not started."""
        return self._residency.recalled

    def give_back(self, leases: Iterable[Lease]) -> None:
        """Let leases wait again that were recalled; they become ready anew."""
        with self._changing() as residency:
            residency.give_back(leases)

    def load(self, ref: AdapterRef, timeout: float | None = None, wait: bool = True) -> AdapterInfo:
        """Bring an adapter to the device, from where it may be evicted again later.

        Raises what a lease's error may be, and DeadlineExceeded after ``timeout`` seconds.  Without
        ``wait`` it returns at once, and raises only what is wrong already.
        """
        if not wait:
            return self._begin_load(ref)
        with self._loaded(ref, timeout) as version:
            pass
        return self._catalogue.info(version)

    def chat(self, ref: AdapterRef) -> Future[AdapterChat]:
        """How its folder writes conversations, once it was read; its load begins where it was not.

        Nothing waits here.  The future fails with what a lease's error may be, and may be
        cancelled.
        """
        lease = self.lease((ref,))
        with self._changing():
            future = self._chats.add(lease)
        future.add_done_callback(lambda _: self._forget_chat(lease))
        return future

    def pin(
        self, adapter_id: str, pinned: bool = True, timeout: float | None = None
    ) -> AdapterInfo:
        """Load an adapter and keep it on the device, or let it be evicted again.

        Of an adapter in memory all revisions are meant, and what was loaded of it with anybody's
        token.  The pin outlives a change of the folder, but not ``unload``.  Raises like ``load``.
        """
        if not pinned:
            return self._unpin(adapter_id)
        with self._changed:
            known = [version.ref for version in self._catalogue.named(adapter_id)]
        for ref in known or [AdapterRef(adapter_id)]:
            with self._loaded(ref, timeout) as version, self._changing():
                self._catalogue.pin(version)
        return self._catalogue.info(version)

    def unload(self, adapter_id: str) -> None:
        """Unpin and drop an adapter; requests that hold it keep it until they end.

        Raises AdapterNotFound where neither memory nor the source knows it.
        """
        with self._changing() as residency:
            versions = self._catalogue.named(adapter_id)
            for version in versions:
                self._catalogue.remove(version)
                residency.retire(version)
        if not versions:
            self._here(adapter_id)

    def check_integrity(self) -> None:
        """Raises InternalError where bytes, leases or states do not add up."""
        with self._changed:
            if found := list(integrity.faults(self._residency, self._catalogue)):
                raise InternalError("; ".join(found))

    def close(self) -> None:
        """Fail whatever waits and drop all adapters; leases that are ready stay so."""
        with self._changing() as residency:
            self._closed = True
            self._look_ups.fail_all(_closed())
            residency.fail_unsettled(_closed())
            for version in self._catalogue:
                residency.retire(version)
            self._catalogue.clear()
        self._threads.close()

    def on_device(self) -> tuple[str, ...]:
        """Ids of the adapters on the device, at no cost."""
        with self._changed:
            return tuple(version.ref.adapter_id for version in self._residency.device)

    def take_moves(self) -> tuple[AdapterMove, ...]:
        """What adapters did since the last call, oldest first."""
        with self._changed:
            return self._residency.take_moves()

    def list(self) -> list[AdapterInfo]:
        """Every adapter in memory or in the source, by id."""
        known = {location.key: self._catalogue.stored(location) for location in self._stored()}
        with self._changed:
            for version in (*self._residency.retired, *self._catalogue):
                known[version.location.key] = self._catalogue.info(version)
        return sorted(known.values(), key=lambda info: (info.adapter_id, info.source))

    def _stored(self) -> Iterator[Location]:
        for adapter_id in self._source.list():
            with suppress(LoraxSpecError):
                yield self._here(adapter_id)

    def _here(self, adapter_id: str) -> Location:
        """Where it is by what is known already; raises AdapterNotFound where that is nothing."""
        location = self._resolve(AdapterRef(adapter_id))
        if location is None:
            raise AdapterNotFound(f"adapter {adapter_id!r} is not loaded")
        return location

    def _unpin(self, adapter_id: str) -> AdapterInfo:
        with self._changing() as residency:
            versions = self._catalogue.named(adapter_id)
            for version in versions:
                self._catalogue.unpin(version)
            residency.advance()
        if versions:
            return self._catalogue.info(versions[0])
        return self._catalogue.stored(self._here(adapter_id))

    def _begin_load(self, ref: AdapterRef) -> AdapterInfo:
        lease = self.lease((ref,))
        with self._changing():
            self._unattended.add(lease)
            versions = lease.versions
        if lease.error is not None:
            raise lease.error
        return self._catalogue.info(versions[0]) if versions else infos.unknown(ref)

    @contextmanager
    def _loaded(self, ref: Ref, timeout: float | None) -> Iterator[Version]:
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

    def _forget_chat(self, lease: Lease) -> None:
        with self._changed:
            self._chats.drop(lease)
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
            for ref in self._look_ups.take_jobs():
                host = self._loader.host(ref)
                self._threads.submit("look_up", host, partial(self._look_up, ref))
            for job in self._residency.take_jobs():
                host = self._loader.host(job.version.ref) if job.task == "fetch" else ""
                self._threads.submit(job.task, host, partial(self._work[job.task], job.version))
            answers = self._chats.take_known()
            settled = self._look_ups.take_settled() | self._residency.take_settled()
            if settled:
                self._changed.notify_all()
        if settled:
            self._wakeup()
        for answer in answers:
            answer.tell()

    def _release(self, lease: Lease) -> None:
        with self._changing() as residency:
            if self._look_ups.drop(lease):
                lease.close()
            residency.release(lease)

    def _admit(self, asked: Asked) -> None:
        locations = asked.locations()
        refs = {one.key: (one, ref) for one, ref in zip(locations, asked.refs, strict=True)}
        versions = {key: self._version(*one) for key, one in refs.items()}
        self._residency.admit(asked.lease, [versions[one.key] for one in locations])

    def _resolve(self, ref: AdapterRef) -> Location | None:
        try:
            return self._source.resolve(ref)
        except LoraxSpecError:
            raise
        except Exception as error:
            raise as_fault(ref.adapter_id, error) from error

    def _version(self, location: Location, ref: Ref) -> Version:
        """The version that serves ``location`` now, which may be a new one."""
        version = self._catalogue.find(location)
        if version is not None:
            recent = self._clock() - version.failed_at < self._retry_after
            if version.location == location and (version.error is None or recent):
                return version
            self._residency.retire(version)
        return self._catalogue.put(location, ref)

    # The rest runs on the pools' threads.  Whatever goes wrong there, a fault of this code
    # included, fails only the leases that wait for that version.

    def _look_up(self, ref: AdapterRef) -> None:
        try:
            location = self._source.look_up(ref)
        except Exception as error:
            fault = error if isinstance(error, LoraxSpecError) else as_fault(ref.adapter_id, error)
            with self._changing():
                self._look_ups.failed(ref, fault)
        else:
            with self._changing():
                for asked in self._look_ups.found(ref, location):
                    self._admit(asked)

    def _fetch(self, version: Version) -> None:
        began = time.perf_counter()
        try:
            self._loader.fetch(version.location, version.ref)
        except Exception as error:
            self._load_failed(version, error)
        else:
            with self._changing() as residency:
                residency.took(version, "fetch", time.perf_counter() - began)
                residency.fetched(version)

    def _read(self, version: Version) -> None:
        began = time.perf_counter()
        try:
            location, weights = self._loader.read(version.location, version.ref)
        except Exception as error:
            self._load_failed(version, error)
        else:
            with self._changing() as residency:
                version.location = location
                residency.took(version, "read", time.perf_counter() - began)
                residency.loaded(version, weights)

    def _load_failed(self, version: Version, error: Exception) -> None:
        fault = as_fault(version.location.adapter_id, error)
        with self._changing() as residency:
            residency.load_failed(version, fault, self._clock())

    def _copy(self, version: Version) -> None:
        began = time.perf_counter()
        try:
            assert version.host is not None, "kept while the copy is on its way"
            weights = self._place_on_device(version.host)
        except Exception as error:
            fault = as_fault(version.location.adapter_id, error)
            with self._changing() as residency:
                residency.place_failed(version, fault)
        else:
            with self._changing() as residency:
                residency.took(version, "copy", time.perf_counter() - began)
                residency.placed(version, weights)


def _closed() -> Unavailable:
    return Unavailable("the adapter manager is closed")
