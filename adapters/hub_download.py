"""One file from the hub, from where an earlier attempt was broken off."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import huggingface_hub.errors
from huggingface_hub import constants, get_session, hf_raise_for_status
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

from lorax_spec.adapters.files import digest_of
from lorax_spec.adapters.retry import Retry
from lorax_spec.adapters.source import FileStamp
from lorax_spec.errors import AdapterNotFound, LoraxSpecError, PermissionDenied, Unavailable

#: Of httpx or its successor, whichever the hub's client is built on.
_NetworkTrouble: type[Exception] = huggingface_hub.errors.HTTPError  # type: ignore[attr-defined]
_UNFINISHED = ".unfinished-"


@contextmanager
def answered(label: str) -> Iterator[None]:
    """The hub's refusals and silences as errors of ours; ``label`` names the adapter."""
    try:
        yield
    except HfHubHTTPError as error:
        raise _refused(label, error.response.status_code) from error
    except OfflineModeIsEnabled:
        raise Unavailable(f"adapter {label}: the hub is offline (HF_HUB_OFFLINE)") from None
    except HFValidationError:
        raise AdapterNotFound(f"adapter {label}: this is no id of the hub") from None
    except _NetworkTrouble as error:
        trouble = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise Unavailable(f"adapter {label}: the hub cannot be reached ({trouble})") from error


def download(
    url: str, headers: Mapping[str, str], folder: Path, file: FileStamp, label: str, retry: Retry
) -> None:
    """Bring ``file`` into ``folder``: under its name it is whole and right, or not there.

    Raises Unavailable, PermissionDenied and AdapterNotFound, naming the adapter by ``label``.
    """
    target, unfinished = folder / file.name, folder / (_UNFINISHED + file.name)
    if target.is_file():
        return
    retry(partial(_go_on, url, headers, unfinished, file, label), lambda: _size(unfinished))
    unfinished.rename(target)


def _go_on(url: str, headers: Mapping[str, str], path: Path, file: FileStamp, label: str) -> None:
    """Download the rest of ``path`` and check it."""
    if _size(path) > file.size:
        path.unlink()
    if _size(path) < file.size or not path.is_file():
        with answered(label):
            _append(url, headers, path, file, label)
    if _size(path) != file.size:
        raise Unavailable(f"adapter {label}: the hub broke off in the middle of {file.name}")
    if file.digest and digest_of(path, file.digest.partition(":")[0]) != file.digest:
        path.unlink()
        raise Unavailable(f"adapter {label}: {file.name} arrived damaged")


def _append(url: str, headers: Mapping[str, str], path: Path, file: FileStamp, label: str) -> None:
    begin = _size(path)
    # Bytes as they are: counted and cut at the right places.
    asked = {**headers, "Accept-Encoding": "identity", "Range": f"bytes={begin}-"}
    if begin == 0:
        del asked["Range"]
    patience = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream(
        "GET", url, headers=asked, timeout=patience, follow_redirects=True
    ) as response:
        hf_raise_for_status(response)
        if begin and not _continues(response.status_code, response.headers, begin):
            begin = 0
        with path.open("r+b" if begin else "wb") as out:
            out.seek(begin)
            left = file.size - begin
            for chunk in response.iter_bytes():
                left -= len(chunk)
                if left < 0:
                    out.truncate(0)
                    raise Unavailable(f"adapter {label}: {file.name} is longer than the hub said")
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())


def _continues(status: int, headers: Mapping[str, str], begin: int) -> bool:
    return status == 206 and headers.get("Content-Range", "").startswith(f"bytes {begin}-")


def _refused(label: str, status: int) -> LoraxSpecError:
    if status in (401, 403):
        return PermissionDenied(
            f"adapter {label}: the hub refuses it ({status}); it needs an api_token that may read "
            "it, or is not there"
        )
    if status in (408, 429) or status >= 500:
        return Unavailable(f"adapter {label}: the hub answers {status}")
    return AdapterNotFound(f"adapter {label}: the hub does not have it ({status})")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
