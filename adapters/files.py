"""Which files make an adapter."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lorax_spec.adapters import extras
from lorax_spec.adapters.folder import CONFIGS, EXTRAS

#: Medusa's own form of its heads.
_TORCH_FILE = "medusa_lm_head.pt"
_NAMED = {*CONFIGS, *EXTRAS, *extras.FILES, "special_tokens_map.json", _TORCH_FILE}
_MAX_NAME = 200
_CHUNK = 2**20


def is_part(name: str) -> bool:
    """Whether a file of this name belongs to an adapter; it then is a plain name, no path."""
    return name in _NAMED or (
        name.endswith(".safetensors")
        and name[0] != "."
        and len(name) <= _MAX_NAME
        and name.isprintable()
        and not set(name) & {"/", "\\"}
    )


def is_config(name: str) -> bool:
    return name in CONFIGS


def digest_of(path: Path, kind: str) -> str:
    """The digest of a file, of a ``kind`` that FileStamp knows; raises ValueError for another."""
    if kind == "blob":
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    elif kind in ("sha256", "md5"):
        digest = hashlib.new(kind, usedforsecurity=False)
    else:
        raise ValueError(f"a digest of kind {kind}")
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return f"{kind}:{digest.hexdigest()}"
