"""Which source an adapter's name means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from lorax_spec.adapters import hub_source, local_source, object_source
from lorax_spec.adapters.disk_cache import DiskCache
from lorax_spec.adapters.hub_source import HubSource
from lorax_spec.adapters.local_source import LocalSource
from lorax_spec.adapters.object_source import ObjectSource, is_url
from lorax_spec.adapters.source import Location, Source
from lorax_spec.errors import AdapterNotFound, InvalidArgument, PermissionDenied
from lorax_spec.types import AdapterRef

_FIELD = "adapter_source"
KINDS = (local_source.NAME, hub_source.NAME, object_source.NAME)


@dataclass(frozen=True)
class SourceSettings:
    """``roots``: id prefix -> folder.  ``kinds``: what requests may name besides local; the first
    is for those that name none and mean no local folder.  ``urls``: below these lie the adapters of
    object stores.  ``cache`` holds what was downloaded, within ``cache_bytes``; None: the user's
    cache.  What a branch means is taken as known for ``refresh`` seconds."""

    roots: Mapping[str, Path] = field(default_factory=dict)
    kinds: Sequence[str] = (local_source.NAME,)
    urls: Sequence[str] = ()
    cache: Path | None = None
    cache_bytes: int = 20 * 10**9
    refresh: float = 60.0


def open_sources(settings: SourceSettings) -> Source:
    """The source of all adapters; raises InvalidArgument for settings that do not hold together.

    The cache's folder is made where something may come from elsewhere, and not before.
    """
    if unknown := [kind for kind in settings.kinds if kind not in KINDS]:
        raise InvalidArgument(f"adapter source {unknown[0]!r}: one of {', '.join(KINDS)}", _FIELD)
    if object_source.NAME in settings.kinds and not settings.urls:
        raise InvalidArgument("adapter source s3 needs an --adapter-url", _FIELD)
    local = LocalSource(settings.roots)
    elsewhere: dict[str, Source] = {}
    if hub_source.NAME in settings.kinds or settings.urls:
        folder = settings.cache or Path("~/.cache/lorax-spec/adapters")
        cache = DiskCache(folder.expanduser(), settings.cache_bytes)
        if hub_source.NAME in settings.kinds:
            elsewhere[hub_source.NAME] = HubSource(cache, refresh=settings.refresh)
        if settings.urls:
            elsewhere[object_source.NAME] = ObjectSource(
                cache, settings.urls, refresh=settings.refresh
            )
    return Sources(local, elsewhere, settings.kinds[0])


class Sources:
    """A name that is a URL means an object store; a request that names a source means that; all
    others a local folder, where there is one, and else the ``default`` source."""

    def __init__(self, local: Source, elsewhere: Mapping[str, Source], default: str) -> None:
        self._local = local
        self._elsewhere = {local_source.NAME: local, **elsewhere}
        self._default = self._elsewhere[default]

    def resolve(self, ref: AdapterRef) -> Location | None:
        named = self._named(ref)
        if named is not None:
            return named.resolve(ref)
        try:
            return self._local.resolve(ref)
        except AdapterNotFound:
            if self._default is self._local:
                raise
        return self._default.resolve(ref)

    def look_up(self, ref: AdapterRef) -> Location:
        return self._of(ref).look_up(ref)

    def host(self, ref: AdapterRef) -> str:
        return self._of(ref).host(ref)

    def fetch(self, location: Location, ref: AdapterRef) -> Path:
        return self._elsewhere[location.source].fetch(location, ref)

    def opened(self, location: Location, ref: AdapterRef) -> AbstractContextManager[Path]:
        return self._elsewhere[location.source].opened(location, ref)

    def list(self) -> list[str]:
        return [adapter_id for source in self._elsewhere.values() for adapter_id in source.list()]

    def _of(self, ref: AdapterRef) -> Source:
        named = self._named(ref)
        if named is not None:
            return named
        try:
            self._local.resolve(ref)
        except AdapterNotFound:
            return self._default
        return self._local

    def _named(self, ref: AdapterRef) -> Source | None:
        """The source that ``ref`` itself names; None where it leaves that open."""
        if is_url(ref.adapter_id):
            if object_source.NAME not in self._elsewhere:
                raise PermissionDenied(f"adapter id {ref.adapter_id!r}: URLs are not served here")
            return self._elsewhere[object_source.NAME]
        if ref.source and ref.source not in self._elsewhere:
            raise AdapterNotFound(f"adapter source {ref.source!r} is not served here")
        return self._elsewhere[ref.source] if ref.source else None
