"""API keys: who may call, kept as hashes in a file.

A line is ``role:name:sha256:HEX``, where role is user or admin and HEX the SHA-256 of the key;
empty lines and what follows ``#`` at a line's beginning count for nothing.  Keys are made here, of
256 random bits, so a fast hash is as good as a slow one: there is nothing to guess.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lorax_spec.errors import LoraxSpecError, PermissionDenied, Unauthenticated

logger = logging.getLogger(__name__)

_PREFIX = "lxs_"
_RANDOM_BYTES = 32
_LINE = re.compile(r"(user|admin):([A-Za-z0-9._@-]{1,64}):sha256:([0-9a-f]{64})")


class Role(enum.StrEnum):
    """An admin may do all that a user may, and load, unload and pin adapters."""

    USER = "user"
    ADMIN = "admin"


@dataclass(frozen=True)
class Key:
    role: Role
    name: str
    digest: str = field(repr=False)

    @property
    def line(self) -> str:
        """As it stands in the file."""
        return f"{self.role}:{self.name}:sha256:{self.digest}"


def new_key(role: Role, name: str) -> tuple[str, Key]:
    """A fresh key, which is nowhere else, and what to keep of it.

    Raises ValueError for a name that a line cannot hold.
    """
    secret = _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    key = Key(role, name, _digest(secret))
    if _LINE.fullmatch(key.line) is None:
        raise ValueError(f"a key's name has letters, digits and . _ @ - only, at most 64: {name!r}")
    return secret, key


def read_keys(path: Path) -> tuple[Key, ...]:
    """Raises OSError where the file cannot be read, and ValueError that names what is wrong."""
    keys: dict[str, Key] = {}
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:  # the line is not shown: somebody may have put the key itself there
            raise ValueError(f"{path}:{number}: not of the form role:name:sha256:HEX")
        role, name, digest = found.groups()
        if name in keys:
            raise ValueError(f"{path}:{number}: a second key of the name {name}")
        keys[name] = Key(Role(role), name, digest)
    if not keys:
        raise ValueError(f"{path}: no key in it, so nobody could call")
    return tuple(keys.values())


class KeyRing:
    """The keys of a file, read again on ``reload``; ``on_refusal`` hears why callers are sent away.

    Raises what ``read_keys`` raises.
    """

    def __init__(
        self, path: Path, on_refusal: Callable[[LoraxSpecError], None] = lambda error: None
    ) -> None:
        self._path = path
        self._on_refusal = on_refusal
        self._keys = read_keys(path)

    def reload(self) -> None:
        """Take what the file holds now; a broken one changes nothing and is logged."""
        try:
            self._keys = read_keys(self._path)
        except (OSError, ValueError) as error:
            logger.error("the old API keys stay: %s", error)
        else:
            logger.info("%d API keys in %s", len(self._keys), self._path)

    def find(self, secret: str) -> Key | None:
        """The key that is this one; takes as long whichever it is, and where it is none."""
        digest, found = _digest(secret), None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def admit(self, authorization: str | None, role: Role) -> Key:
        """Whose key an ``Authorization: Bearer`` header holds, of ``role`` at least.

        Raises Unauthenticated where there is none that is known, PermissionDenied where it may not.
        """
        try:
            return self._admitted(authorization, role)
        except LoraxSpecError as error:
            self._on_refusal(error)
            raise

    def _admitted(self, authorization: str | None, role: Role) -> Key:
        scheme, _, secret = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthenticated("this server asks for an API key: Authorization: Bearer KEY")
        key = self.find(secret.strip())
        if key is None:
            raise Unauthenticated("this API key is unknown here")
        if role is Role.ADMIN and key.role is not Role.ADMIN:
            raise PermissionDenied(f"only an admin's key may do this, and {key.name} is a user's")
        return key


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
