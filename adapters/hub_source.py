"""Adapters from the Hugging Face hub, or what speaks as it does (``HF_ENDPOINT``)."""

from __future__ import annotations

import hashlib
import math
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, ModelInfo, constants, hf_hub_url, try_to_load_from_cache

from lorax_spec.adapters.disk_cache import DiskCache
from lorax_spec.adapters.files import is_config, is_part
from lorax_spec.adapters.folder import CONFIGS
from lorax_spec.adapters.hub_download import answered, download
from lorax_spec.adapters.known import Known
from lorax_spec.adapters.retry import Retry
from lorax_spec.adapters.source import FileStamp, Location, scope_of
from lorax_spec.errors import (
    AdapterNotFound,
    InvalidArgument,
    LoraxSpecError,
    PermissionDenied,
    Unavailable,
)
from lorax_spec.types import AdapterRef

NAME = "hub"
T = TypeVar("T")

_PART = r"[A-Za-z0-9][\w.-]{0,95}"
_REPOSITORY = re.compile(f"{_PART}(/{_PART})?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MAX_REVISION = 200
_MAX_FILES = 200
#: Seconds to wait for one answer of the hub.
_PATIENCE = 10.0


class HubSource:
    """Repositories of models that hold adapters in their topmost folder.

    What the hub told is taken as known for ``refresh`` seconds, and what it refused for
    ``remember`` seconds; what it told of a public commit, for good.  Callers without a token are
    nobody to the hub: the server's own token is never used for them.

    Offline (``HF_HUB_OFFLINE``) the hub's own cache on this machine is served, to everybody.
    """

    def __init__(
        self,
        cache: DiskCache,
        *,
        endpoint: str | None = None,
        refresh: float = 60.0,
        remember: float = 3.0,
        retry: Retry | None = None,
        known: Known | None = None,
    ) -> None:
        self._cache = cache
        self._endpoint = endpoint or constants.ENDPOINT
        self._api = HfApi(endpoint=self._endpoint, token=False)
        self._refresh = refresh
        self._remember = remember
        self._retry = retry or Retry()
        self._known = known or Known()

    def resolve(self, ref: AdapterRef) -> Location | None:
        """What is known of ``ref``, to those with its token.

        Raises what ``look_up`` raised a moment ago, and what it raises without asking the hub.
        """
        repository, revision = _split(ref)
        public = self._known.get((repository, revision, ""))
        if isinstance(public, Location):
            return public
        scope = scope_of(ref.api_token)
        finding = self._known.get((repository, revision, scope)) if scope else public
        if isinstance(finding, LoraxSpecError):
            raise type(finding)(finding.message)
        return finding

    def look_up(self, ref: AdapterRef) -> Location:
        """Ask the hub.

        Raises AdapterNotFound, PermissionDenied as the hub refuses this token or none, Unavailable
        where it does not answer for a while, and InvalidArgument where ``ref`` has two revisions.
        """
        repository, revision = _split(ref)
        try:
            if constants.HF_HUB_OFFLINE:
                location = _in_cache(repository, revision)
            else:
                location = self._retry(partial(self._ask, repository, revision, ref.api_token))
        except LoraxSpecError as error:
            self._known.put((repository, revision, scope_of(ref.api_token)), error, self._remember)
            raise
        forever = not location.scope and _COMMIT.fullmatch(revision)
        seconds = math.inf if forever else self._refresh
        self._known.put((repository, revision, location.scope), location, seconds)
        return location

    def host(self, ref: AdapterRef) -> str:
        """The hub."""
        return NAME

    def fetch(self, location: Location, ref: AdapterRef) -> Path:
        """Download what is not in the cache yet, and go on where a download was broken off.

        Raises what ``look_up`` and the cache raise, and Unavailable for files that arrive damaged.
        """
        if location.folder != self._cache.path(self._name(location)):
            return location.folder
        return self._cache.fetch(*self._order(location, ref))

    def opened(self, location: Location, ref: AdapterRef) -> AbstractContextManager[Path]:
        """As ``fetch``; nothing of the hub's own cache is dropped by us."""
        if location.folder != self._cache.path(self._name(location)):
            return nullcontext(location.folder)
        return self._cache.opened(*self._order(location, ref))

    def list(self) -> list[str]:
        """Nothing: the hub's adapters are not counted."""
        return []

    def _ask(self, repository: str, revision: str, token: str) -> Location:
        label = f"{repository}@{revision}" if revision else repository
        with answered(label):
            info = self._api.model_info(
                repository,
                revision=revision or None,
                files_metadata=True,
                timeout=_PATIENCE,
                token=token or False,
            )
            if info.gated:  # anyone is told of it, not anyone may have its files
                self._api.auth_check(repository, token=token or False)
        if not _COMMIT.fullmatch(info.sha or ""):
            raise Unavailable(f"adapter {label}: the hub names no commit")
        assert info.sha
        files = _stamps(info)
        if not any(is_config(file.name) for file in files):
            raise AdapterNotFound(f"adapter {label}: the hub has this repository, but no adapter")
        if len(files) > _MAX_FILES:
            raise AdapterNotFound(f"adapter {label}: {len(files)} files are no adapter")
        bare = Location(
            NAME,
            repository,
            revision,
            Path(),
            files,
            commit=info.sha,
            scope=scope_of(token) if info.private or info.gated else "",
        )
        return replace(bare, folder=self._cache.path(self._name(bare)))

    def _name(self, location: Location) -> str:
        """What the cache calls it: one name for all scopes, as ``look_up`` lets nobody get a
        Location who may not have the files."""
        who = "\0".join((self._endpoint, location.adapter_id, location.commit))
        return f"hub-{hashlib.sha256(who.encode()).hexdigest()[:40]}"

    def _order(self, location: Location, ref: AdapterRef) -> tuple[str, int, partial[None]]:
        nbytes = sum(file.size for file in location.files)
        return self._name(location), nbytes, partial(self._fill, location, ref.api_token)

    def _fill(self, location: Location, token: str, folder: Path) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        for file in location.files:
            url = hf_hub_url(
                location.adapter_id,
                file.name,
                revision=location.commit,
                endpoint=self._endpoint,
            )
            download(url, headers, folder, file, location.adapter_id, self._retry)


def _split(ref: AdapterRef) -> tuple[str, str]:
    """(repository, revision), of ``repository@revision`` too."""
    repository, separator, named = ref.adapter_id.partition("@")
    if separator and ref.revision and named != ref.revision:
        raise InvalidArgument(
            f"`adapter_id` names revision {named!r}, `adapter_revision` {ref.revision!r}",
            "adapter_revision",
        )
    revision = named or ref.revision
    if ".." in ref.adapter_id or repository.startswith("/"):
        raise PermissionDenied(f"adapter id {ref.adapter_id!r} leaves its folder")
    if not _REPOSITORY.fullmatch(repository) or (separator and not named):
        raise AdapterNotFound(f"{ref.adapter_id!r} is no id of the hub")
    if len(revision) > _MAX_REVISION or not revision.isprintable():
        raise AdapterNotFound(f"adapter {repository} has no such revision")
    return repository, revision


def _stamps(info: ModelInfo) -> tuple[FileStamp, ...]:
    """Files of the topmost folder that belong to an adapter; other names are never looked at."""
    stamps = []
    for file in info.siblings or ():
        if not is_part(file.rfilename):
            continue
        size = file.lfs.size if file.lfs else file.size
        if not isinstance(size, int) or size < 0:
            raise Unavailable(
                f"adapter {info.id}: the hub does not say how long {file.rfilename} is"
            )
        if file.lfs:
            digest = f"sha256:{file.lfs.sha256}"
        else:
            digest = f"blob:{file.blob_id}" if file.blob_id else ""
        stamps.append(FileStamp(file.rfilename, size, digest=digest))
    return tuple(sorted(stamps, key=lambda stamp: stamp.name))


def _in_cache(repository: str, revision: str) -> Location:
    """What lies in the hub's own cache on this machine."""
    for config in CONFIGS:
        found = try_to_load_from_cache(repository, config, revision=revision or None)
        if isinstance(found, str):
            folder = Path(found).parent
            files = tuple(
                FileStamp(file.name, file.stat().st_size)
                for file in sorted(folder.iterdir())
                if is_part(file.name)
            )
            return Location(NAME, repository, revision, folder, files, commit=folder.name)
    raise AdapterNotFound(f"adapter {repository} is not in the hub's cache, and the hub is offline")
