"""What can be done to an exchange of adapters, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from lorax_spec.errors import LoraxSpecError, Overloaded, Unavailable
from tests.properties.exchange import NAMES, TOKEN

ROOM = 8
#: Eight of rank 4 fit, eight of rank 8 do not.
DEVICE_BYTES, HOST_BYTES = 2_300_000, 1_500_000
Key = tuple[str, str]


@dataclass(frozen=True)
class Generate:
    name: str
    token: str
    prompt: int
    draft: int


@dataclass(frozen=True)
class Burst:
    """Requests together; the first one's adapter changes when so many steps are done."""

    names: tuple[str, ...]
    changes_after: int | None


@dataclass(frozen=True)
class Load:
    name: str


@dataclass(frozen=True)
class Unload:
    name: str


@dataclass(frozen=True)
class Pin:
    name: str
    pinned: bool


@dataclass(frozen=True)
class RevisionChange:
    name: str


@dataclass(frozen=True)
class ExpireToken:
    expired: bool


@dataclass(frozen=True)
class Fail:
    name: str
    failing: bool


Operation = Generate | Burst | Load | Unload | Pin | RevisionChange | ExpireToken | Fail


@dataclass
class Expectation:
    """What must lie on the device, the least recently used first, and what must go wrong.

    The policy, written down once more for requests that come one by one.
    """

    sizes: dict[str, int]
    device: dict[Key, int] = field(default_factory=dict)
    fetched: dict[Key, int] = field(default_factory=dict)
    pins: set[Key] = field(default_factory=set)
    known: set[Key] = field(default_factory=set)

    def use(self, key: Key, seed: int, cut: bool) -> type[LoraxSpecError] | None:
        """Bring ``key`` with the content ``seed`` to the device; returns the error of that."""
        self.known.add(key)
        if self.fetched.get(key) != seed:
            self.device.pop(key, None)
            self.fetched.pop(key, None)
            if cut:
                return Unavailable
            self.fetched[key] = seed
        size = self.sizes[key[0]]
        kept = [one for one in self.device if one in self.pins and one != key]
        bytes_kept = sum(self.sizes[name] for name, _ in kept)
        if len(kept) + 1 > ROOM or bytes_kept + size > DEVICE_BYTES:
            return Overloaded
        if key not in self.device:
            for victim in [one for one in self.device if one not in self.pins]:
                if len(self.device) < ROOM and self.bytes + size <= DEVICE_BYTES:
                    break
                del self.device[victim]
        self.device.pop(key, None)
        self.device[key] = seed
        return None

    def forget(self, name: str) -> None:
        for key in [one for one in self.known if one[0] == name]:
            self.known.discard(key)
            self.pins.discard(key)
            self.device.pop(key, None)
            self.fetched.pop(key, None)

    @property
    def bytes(self) -> int:
        return sum(self.sizes[name] for name, _ in self.device)


names = st.one_of(st.sampled_from(NAMES[:12]), st.sampled_from(NAMES[:12]), st.sampled_from(NAMES))
operations = st.one_of(
    st.builds(
        Generate,
        st.one_of(names, names, names, st.just("absent")),
        st.sampled_from(["", TOKEN, TOKEN]),
        st.integers(0, 1),
        st.sampled_from([0, 4]),
    ),
    st.builds(
        Burst, st.lists(names, min_size=2, max_size=14).map(tuple), st.none() | st.integers(0, 4)
    ),
    st.builds(Load, names),
    st.builds(Unload, names),
    st.builds(Pin, names, st.booleans()),
    st.builds(RevisionChange, names),
    st.builds(ExpireToken, st.booleans()),
    st.builds(Fail, names, st.booleans()),
)
