"""Any sequence of operations over two hundred adapters in room for eight: every text is peft's,
every error and every eviction is the one expected, and the bytes accounted are those allocated
(issue 4, must show 1)."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef

from lorax_spec import embedded
from lorax_spec.adapters.lookups import Ref
from lorax_spec.adapters.manager import AdapterManager
from lorax_spec.adapters.room import Budget
from lorax_spec.adapters.source import Location, scope_of
from lorax_spec.adapters.weights import AdapterWeights
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.loading import load
from lorax_spec.engine.request import Emitted, Failed, TokenRequest
from lorax_spec.errors import (
    AdapterNotFound,
    LoraxSpecError,
    Overloaded,
    PermissionDenied,
    Unavailable,
)
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.types import AdapterRef, Parameters, Speculation
from tests.adapters.executors import Clock, StepExecutor
from tests.properties.exchange import NAMES, PRIVATE, TOKEN, Exchange, Peft, Shelf
from tests.properties.exchange_rules import (
    DEVICE_BYTES,
    HOST_BYTES,
    ROOM,
    Burst,
    Expectation,
    ExpireToken,
    Fail,
    Generate,
    Key,
    Load,
    Operation,
    Pin,
    RevisionChange,
    Unload,
    operations,
)

pytestmark = pytest.mark.slow

NEW_TOKENS = 5


class Market:
    """One engine; every script begins with empty memories."""

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        loaded = load(
            EngineConfig(
                str(embedded.path() / "base"),
                dtype="float32",
                deterministic=True,
                max_total_tokens=128,
                max_batch_total_tokens=2048,
                max_batch_size=6,
            )
        )
        self._core = EngineCore(loaded)
        self._shape = loaded.adapters._loader._shape
        tokenizer = TextTokenizer.load(embedded.path() / "base")
        items = embedded.workloads()["doc"][:2]
        self._prompts = [tuple(tokenizer.encode(item["prompt"]))[-40:] for item in items]
        self._peft = Peft(shelf, tuple(sorted(tokenizer.eos_token_ids)))
        self._sizes = {name: shelf.nbytes(name) for name in NAMES[:6]}
        self._next_id = 0
        self.met: set[str] = set()
        self.evicted = 0

    def play(self, script: list[Operation]) -> None:
        self._begin()
        try:
            for operation in script:
                self._clock.now += 2  # failures are tried again
                before = set(self._expected.device)
                self._do(operation)
                self._settle()
                self.evicted += len(before - self._expected.device.keys())
        finally:
            self._core.adapters.close()
            for name, seed in self._shelf.seeds.items():
                if seed:
                    self._shelf.write(name, 0)

    def _begin(self) -> None:
        self._clock, self._executor = Clock(), StepExecutor()
        self._exchange = Exchange(self._shelf.root)
        self._core.adapters.close()
        self._core.adapters = self._adapters = AdapterManager(
            self._exchange,
            self._shape,
            dtype=torch.float32,
            device=torch.device("cpu"),
            budget=Budget(DEVICE_BYTES, ROOM, HOST_BYTES),
            executor=self._executor,
            clock=self._clock,
        )
        self._slabs: list[tuple[StorageWeakRef, int]] = []
        self._watch()
        by_rank = {self._shelf.rank(name): size for name, size in self._sizes.items()}
        self._expected = Expectation({name: by_rank[self._shelf.rank(name)] for name in NAMES})

    def _watch(self) -> None:
        """Follow the memory of every slab that is read, whoever still has a view of it."""
        read = self._adapters._loader.read

        def watched(location: Location, ref: Ref) -> tuple[Location, AdapterWeights]:
            seen, weights = read(location, ref)
            storage = weights.slab.data.untyped_storage()
            self._slabs.append((StorageWeakRef(storage), storage.nbytes()))
            return seen, weights

        self._adapters._loader.read = watched  # type: ignore[method-assign]

    def _settle(self) -> None:
        """Whatever was done is over: the books agree with memory, and memory with what must be."""
        self._adapters.check_integrity()
        residency = self._adapters._residency
        allocated = sum(nbytes for slab, nbytes in self._slabs if not slab.expired())
        assert residency.device.bytes + residency.host.bytes == allocated
        assert residency.device.bytes == self._expected.bytes
        assert residency.host.bytes <= HOST_BYTES
        assert self._on_device() == list(self._expected.device)
        assert not residency.leases and not residency.retired

    def _on_device(self) -> list[Key]:
        device = self._adapters._residency.device
        return [(one.location.adapter_id, one.location.scope) for one in device]

    def _do(self, operation: Operation) -> None:
        match operation:
            case Generate():
                self._generate(operation)
            case Burst():
                self._burst(operation)
            case Load(name):
                self._check(self._bring(name), self._use(name, TOKEN))
            case Pin(name, pinned):
                self._pin(name, pinned)
            case Unload(name):
                self._unload(name)
            case RevisionChange(name):
                self._shelf.write(name, self._shelf.seeds[name] + 1)
            case ExpireToken(expired):
                (self._exchange.expire if expired else self._exchange.renew)()
            case Fail(name, failing):
                (self._exchange.cut.add if failing else self._exchange.cut.discard)(name)

    def _use(self, name: str, token: str) -> type[LoraxSpecError] | None:
        """The error that using ``name`` with ``token`` must end in."""
        if name not in self._shelf.seeds:
            return AdapterNotFound
        if name in PRIVATE and token not in self._exchange.valid:
            return PermissionDenied
        self.met.add(name)
        key = (name, scope_of(token) if name in PRIVATE else "")
        return self._expected.use(key, self._shelf.seeds[name], name in self._exchange.cut)

    def _check(self, error: LoraxSpecError | None, expected: type[LoraxSpecError] | None) -> None:
        assert type(error) is (expected or type(None)), error

    def _generate(self, asked: Generate) -> None:
        expected = self._use(asked.name, asked.token)
        request_id = self._submit(asked.name, asked.token, asked.prompt, asked.draft)
        tokens, errors = self._run({request_id: asked.name})
        self._check(errors.get(request_id), expected)
        if expected is None:
            text = self._peft.text(asked.name, self._prompts[asked.prompt], NEW_TOKENS)
            assert tokens[request_id] == text
        else:
            assert request_id not in tokens

    def _burst(self, burst: Burst) -> None:
        """Texts, and nothing else, are known beforehand: of the old content or the new."""
        names = [name for name in burst.names if name not in PRIVATE]
        possible = {name: [self._peft.text(name, self._prompts[0], NEW_TOKENS)] for name in names}
        asked = {self._submit(name, "", 0, 0): name for name in names}
        tokens, errors = self._run(asked, burst.changes_after)
        for name in names:
            self.met.add(name)
            possible[name].append(self._peft.text(name, self._prompts[0], NEW_TOKENS))
        for request_id, name in asked.items():
            error = errors.get(request_id)
            if error is None:
                assert tokens[request_id] in possible[name]
            else:
                cut = isinstance(error, Unavailable) and name in self._exchange.cut
                assert cut or isinstance(error, Overloaded)
        for name in set(names):
            self._unload(name)
        # The others have kept their order, but for those that had to make room.
        left = [key for key in self._expected.device if key in self._on_device()]
        self._expected.device = dict.fromkeys(left, 0)

    def _submit(self, name: str, token: str, prompt: int, draft: int) -> int:
        self._next_id += 1
        self._core.submit(
            TokenRequest(
                self._next_id,
                self._prompts[prompt],
                Parameters(max_new_tokens=NEW_TOKENS),
                Speculation(num_tokens=draft),
                AdapterRef(name, api_token=token),
            )
        )
        return self._next_id

    def _run(
        self, asked: dict[int, str], changes_after: int | None = None
    ) -> tuple[dict[int, list[int]], dict[int, LoraxSpecError]]:
        tokens: dict[int, list[int]] = {}
        errors: dict[int, LoraxSpecError] = {}
        ended: set[int] = set()
        for step in range(40 * len(asked) + 40):
            if step == changes_after and asked:
                name = next(iter(asked.values()))
                self._shelf.write(name, self._shelf.seeds[name] + 1)
            self._executor.run_all()
            self._clock.now += 0.5
            for event in self._core.step():
                if isinstance(event, Emitted):
                    tokens.setdefault(event.request_id, []).extend(t.id for t in event.tokens)
                    continue
                ended.add(event.request_id)
                if isinstance(event, Failed):
                    errors[event.request_id] = event.error
            if ended == asked.keys():
                break
        assert ended == asked.keys(), "the engine stalls"
        self._core.check_integrity()
        return tokens, errors

    def _bring(self, name: str) -> LoraxSpecError | None:
        """Load and return what that ends in; all its work is done by then."""
        ref = AdapterRef(name, api_token=TOKEN if name in PRIVATE else "")
        try:
            self._adapters.load(ref, wait=False)
            self._executor.run_all()
            self._adapters.load(ref, timeout=0)
        except LoraxSpecError as error:
            self._executor.run_all()
            return error
        return None

    def _pin(self, name: str, pinned: bool) -> None:
        if name in PRIVATE:
            return
        if not pinned:
            self._adapters.pin(name, False)
            self._expected.pins.discard((name, ""))
            return
        expected = self._use(name, "")
        error = self._bring(name)
        if error is None:
            self._adapters.pin(name, timeout=0)
            self._expected.pins.add((name, ""))
        self._check(error, expected)

    def _unload(self, name: str) -> None:
        known = any(key[0] == name for key in self._expected.known)
        try:
            self._adapters.unload(name)
        except (AdapterNotFound, PermissionDenied):
            assert name in PRIVATE and not known
        self._expected.forget(name)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    market = Market(Shelf(tmp_path_factory.mktemp("shelf")))
    yield market
    market._core.close()


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(script=st.lists(operations, min_size=5, max_size=25))
def test_any_script(market: Market, script: list[Operation]) -> None:
    market.play(script)


def test_all_two_hundred(market: Market) -> None:
    """A long script of chance that meets every adapter."""
    chance = random.Random(4)
    script: list[Operation] = []
    for name in chance.sample(NAMES, len(NAMES)):
        script.append(Generate(name, TOKEN, chance.randrange(2), chance.choice([0, 4])))
        again = chance.choice(NAMES[:20])
        script.append(
            chance.choice(
                [
                    Load(again),
                    Unload(again),
                    Pin(again, chance.random() < 0.3),
                    RevisionChange(again),
                    Fail(again, chance.random() < 0.3),
                    Burst(tuple(chance.sample(NAMES[:20], 3)), chance.choice([None, 2])),
                ]
            )
        )
    market.met.clear()
    market.evicted = 0
    market.play(script)
    assert market.met == set(NAMES)
    assert market.evicted > 150
