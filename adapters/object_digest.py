"""What an object store says of a file's content, where that can be checked."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


def digest_in(store: Any, entry: Mapping[str, Any]) -> str:
    """``md5:...`` as FileStamp has it, or nothing.

    ``entry`` is what ``store``, fsspec's file system, lists.  S3's ETag is the MD5 of what was
    uploaded in one piece and lies there without a customer's key, which S3 is asked for here.
    """
    told = entry.get("md5Hash") or _nested(entry, "content_settings", "content_md5")
    if isinstance(told, str):
        return f"md5:{base64.b64decode(told).hex()}"
    if isinstance(told, bytes | bytearray):
        return f"md5:{bytes(told).hex()}"
    matched = _MD5.fullmatch(str(entry.get("ETag", "")))
    if matched is None or "s3" not in _protocols(store):
        return ""
    bucket, _, key = str(entry["name"]).partition("/")
    head = store.call_s3("head_object", Bucket=bucket, Key=key)
    plain = head.get("ServerSideEncryption", "AES256") == "AES256"
    return f"md5:{matched[1]}" if plain and "SSECustomerAlgorithm" not in head else ""


def _nested(entry: Mapping[str, Any], outer: str, inner: str) -> Any:
    found = entry.get(outer)
    return found.get(inner) if isinstance(found, Mapping) else None


def _protocols(store: Any) -> tuple[str, ...]:
    protocol = store.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
