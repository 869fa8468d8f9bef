"""Adapters from object stores, by fsspec: S3 (the extra ``s3``) and whatever else it speaks to."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from lorax_spec.adapters.disk_cache import DiskCache
from lorax_spec.adapters.files import digest_of, is_config, is_part
from lorax_spec.adapters.known import Known
from lorax_spec.adapters.local_source import require_plain
from lorax_spec.adapters.object_digest import digest_in
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

NAME = "s3"
logger = logging.getLogger(__name__)

#: fsspec's file system of a URL, with options.
OpenStore = Callable[..., Any]

_URL = re.compile(r"[a-z][a-z0-9+.-]*://.|file:", re.ASCII | re.IGNORECASE)
#: What fsspec or a store would take for more than a name.
_SPECIAL = set('*?[]{}#%<>|"`^~') | {"::"}
#: Open connections to stores, each for other credentials.
_MAX_STORES = 16


def is_url(adapter_id: str) -> bool:
    return _URL.match(adapter_id) is not None


class ObjectSource:
    """Adapters below ``roots``, URLs such as ``s3://bucket/adapters``; no other URL is opened.

    An id is such a URL, or a path below the first of the roots.  ``key:secret`` as a request's
    token are its credentials for S3; all other requests go with the server's, and share a scope.
    What a folder held is taken as known for ``refresh`` seconds.
    """

    def __init__(
        self,
        cache: DiskCache,
        roots: Sequence[str],
        *,
        refresh: float = 60.0,
        remember: float = 3.0,
        retry: Retry | None = None,
        known: Known | None = None,
    ) -> None:
        """Raises InvalidArgument for a root that is no URL, or of files of this machine."""
        self._cache = cache
        self._roots = [root.rstrip("/") for root in roots]
        for root in self._roots:
            protocol = root.partition(":")[0].lower()
            if not is_url(root) or protocol in ("file", "local") or "::" in root:
                raise InvalidArgument(f"{root!r} is no URL of an object store", "adapter_url")
        self._refresh = refresh
        self._remember = remember
        self._retry = retry or Retry(attempts=3)
        self._known = known or Known()
        self._lock = threading.Lock()
        self._stores: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def resolve(self, ref: AdapterRef) -> Location | None:
        """What is known of ``ref``; raises what ``look_up`` raised a moment ago."""
        _, url = self._place(ref)
        finding = self._known.get((url, scope_of(_credentials(url, ref))))
        if isinstance(finding, LoraxSpecError):
            raise type(finding)(finding.message)
        return finding

    def look_up(self, ref: AdapterRef) -> Location:
        """List the folder.

        Raises AdapterNotFound, PermissionDenied as the store refuses these credentials, and
        Unavailable where it does not answer.
        """
        _, url = self._place(ref)
        name = url, scope_of(_credentials(url, ref))
        try:
            location = self._retry(partial(self._ask, url, ref))
        except LoraxSpecError as error:
            self._known.put(name, error, self._remember)
            raise
        self._known.put(name, location, self._refresh)
        return location

    def host(self, ref: AdapterRef) -> str:
        """The root that ``ref`` is below."""
        return self._place(ref)[0]

    def fetch(self, location: Location, ref: AdapterRef) -> Path:
        """Download the files that are not in the cache yet, each as a whole.

        Raises what ``look_up`` and the cache raise, and Unavailable for files that change meanwhile
        or arrive damaged.
        """
        return self._cache.fetch(*self._order(location, ref))

    def opened(self, location: Location, ref: AdapterRef) -> AbstractContextManager[Path]:
        """As ``fetch``, and keeps the files from being dropped meanwhile."""
        return self._cache.opened(*self._order(location, ref))

    def list(self) -> list[str]:
        """Nothing: what lies in a store is not counted."""
        return []

    def _place(self, ref: AdapterRef) -> tuple[str, str]:
        """(root, URL); raises PermissionDenied for what is below no root."""
        if ref.revision:
            raise AdapterNotFound(f"adapter {ref.adapter_id!r} of an object store has no revisions")
        root, name = self._roots[0], ref.adapter_id
        if is_url(name):
            below = [root for root in self._roots if name.startswith(root + "/")]
            if not below:
                raise PermissionDenied(f"adapter id {name!r} is below no --adapter-url")
            root = max(below, key=len)
            name = name.removeprefix(root + "/")
        require_plain(name)
        if not name.isprintable() or any(special in name for special in _SPECIAL):
            raise AdapterNotFound(f"{ref.adapter_id!r} is no adapter id")
        return root, f"{root}/{name}"

    def _ask(self, url: str, ref: AdapterRef) -> Location:
        credentials = _credentials(url, ref)
        with _answered(url):
            store, path = self._store(url, credentials)
            listed = sorted(_listed(store, path), key=lambda pair: pair[0].name)
        files = tuple(file for file, _ in listed)
        if not any(is_config(file.name) for file in files):
            raise AdapterNotFound(f"no adapter at {url}")
        commit = hashlib.sha256(repr(listed).encode()).hexdigest()
        scope = scope_of(credentials)
        location = Location(NAME, url, "", Path(), files, commit=commit, scope=scope)
        return replace(location, folder=self._cache.path(_name(location)))

    def _order(
        self, location: Location, ref: AdapterRef
    ) -> tuple[str, int, Callable[[Path], None]]:
        nbytes = sum(file.size for file in location.files)
        return _name(location), nbytes, partial(self._fill, location, ref)

    def _fill(self, location: Location, ref: AdapterRef, folder: Path) -> None:
        url = location.adapter_id
        for file in location.files:
            self._retry(partial(self._download, url, ref, file, folder))
        if self._ask(url, ref).commit != location.commit:
            for stale in folder.iterdir():
                stale.unlink()
            raise Unavailable(f"adapter {url} changed while it was fetched; try again")

    def _download(self, url: str, ref: AdapterRef, file: FileStamp, folder: Path) -> None:
        target, unfinished = folder / file.name, folder / f".unfinished-{file.name}"
        if target.is_file():
            return
        with _answered(url):
            store, path = self._store(url, _credentials(url, ref))
            store.get_file(f"{path}/{file.name}", str(unfinished))
        if unfinished.stat().st_size != file.size:
            raise Unavailable(f"adapter {url}: {file.name} was cut short, or changed meanwhile")
        if file.digest and digest_of(unfinished, file.digest.partition(":")[0]) != file.digest:
            raise Unavailable(f"adapter {url}: {file.name} arrived damaged")
        unfinished.rename(target)

    def _store(self, url: str, credentials: str) -> tuple[Any, str]:
        """The store and the path in it; the connections used last are kept."""
        import fsspec  # type: ignore[import-untyped]

        protocol = url.partition(":")[0]
        with self._lock:
            store = self._stores.get((protocol, credentials))
            if store is not None:
                self._stores.move_to_end((protocol, credentials))
        if store is None:
            options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
            if credentials:
                options["key"], _, options["secret"] = credentials.partition(":")
            try:
                store = fsspec.filesystem(protocol, **options)
            except (ImportError, ValueError) as error:
                raise Unavailable(f"{protocol}:// cannot be read here: {error}") from error
            with self._lock:
                self._stores[protocol, credentials] = store
                if len(self._stores) > _MAX_STORES:
                    self._stores.popitem(last=False)
        return store, store._strip_protocol(url)


def _credentials(url: str, ref: AdapterRef) -> str:
    """``key:secret`` for S3, or nothing; a token of another form is not for a store."""
    key, separator, secret = ref.api_token.partition(":")
    own = separator and key and secret and url.startswith(("s3://", "s3a://"))
    return ref.api_token if own else ""


def _name(location: Location) -> str:
    """What the cache calls it.  Scopes do not share files: a store's commits are but what it says
    of its files, and say nothing of who may read them."""
    who = "\0".join((location.adapter_id, location.commit, location.scope))
    return f"object-{hashlib.sha256(who.encode()).hexdigest()[:40]}"


def _listed(store: Any, path: str) -> Iterator[tuple[FileStamp, list[str]]]:
    """An adapter's files, with what else the store says to tell one content from another."""
    for entry in store.ls(path, detail=True):
        folder, _, name = str(entry["name"]).rpartition("/")
        if entry.get("type") != "file" or folder != path or not is_part(name):
            continue
        stamp = FileStamp(name, int(entry["size"]), digest=digest_in(store, entry))
        yield stamp, [str(entry.get(key, "")) for key in _CHANGING]


#: What changes with a file's content, by the names that stores give it.
_CHANGING = ("ETag", "etag", "LastModified", "mtime", "modified", "created", "generation", "mtag")


@contextmanager
def _answered(url: str) -> Iterator[None]:
    """A store's refusals and silences as errors of ours."""
    try:
        yield
    except LoraxSpecError:
        raise
    except FileNotFoundError:
        raise AdapterNotFound(f"no adapter at {url}") from None
    except PermissionError:
        raise PermissionDenied(
            f"adapter {url}: the store refuses it to these credentials"
        ) from None
    except Exception as error:  # every store has errors of its own
        logger.warning("%s: %s: %s", url, type(error).__name__, error)
        if type(error).__name__ == "NoCredentialsError":
            raise PermissionDenied(f"adapter {url}: no credentials for the store") from None
        raise Unavailable(f"adapter {url}: the store fails: {type(error).__name__}") from error
