"""Random adapter traffic over more adapters than fit, faulty ones among them: no wrong text, no
leak, no stall, and the right error each time (issue 2, must show 7)."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lorax_spec import embedded
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import Emitted, Event, Failed, Finished, TokenRequest
from lorax_spec.errors import AdapterMismatch, AdapterNotFound, LoraxSpecError, Overloaded
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.types import AdapterRef, Parameters, Speculation
from tests.conformance.reference import load_reference

pytestmark = pytest.mark.slow

ROOM = 3
NEW_TOKENS = 12
SOUND = ("pirate", "tests", "medusa", "pirate-medusa", "tests-medusa", "medusa-v1")
COPIES = {"pirate-again": "pirate", "tests-again": "tests"}
FAULTY: dict[str, type[LoraxSpecError]] = {
    "absent": AdapterNotFound,
    "cut-short": AdapterMismatch,
    "empty": AdapterMismatch,
    "other-shape": AdapterMismatch,
    "two-heads-said": AdapterMismatch,
    "not-a-number": AdapterMismatch,
}
LORA_OF = {
    "pirate": "pirate",
    "pirate-again": "pirate",
    "tests": "tests",
    "tests-again": "tests",
    "tests-medusa": "tests",
}


def write_adapters(root: Path) -> None:
    """Sound adapters from the bundle, copies of them, and one of each fault."""
    bundle = embedded.path() / "adapters"
    for name in (*SOUND, *COPIES):
        shutil.copytree(bundle / COPIES.get(name, name), root / name)
    for name in ("cut-short", "empty", "other-shape", "not-a-number"):
        shutil.copytree(bundle / "pirate", root / name)
    weights = root / "cut-short" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    (root / "empty" / "adapter_model.safetensors").write_bytes(b"")
    for name in ("other-shape", "not-a-number"):
        path = root / name / "adapter_model.safetensors"
        tensors = load_file(path)
        key = next(k for k in tensors if k.endswith("lora_B.weight"))
        if name == "other-shape":
            tensors[key] = tensors[key][:-1].contiguous()
        else:
            tensors[key][0, 0] = float("nan")
        save_file(tensors, path)
    shutil.copytree(bundle / "medusa", root / "two-heads-said")
    path = root / "two-heads-said" / "config.json"
    config = json.loads(path.read_text()) | {"medusa_num_heads": 9}
    path.write_text(json.dumps(config))


@dataclass(frozen=True)
class Generate:
    adapter: str
    heads: str | None
    prompt: int
    draft: int


@dataclass(frozen=True)
class Cancel:
    which: int


@dataclass(frozen=True)
class Admin:
    """load, unload, pin or unpin."""

    verb: str
    adapter: str


@dataclass(frozen=True)
class Steps:
    count: int


every = st.sampled_from([*SOUND, *COPIES, *FAULTY])
operations = st.lists(
    st.one_of(
        st.builds(
            Generate,
            every,
            st.sampled_from([None, None, "medusa", "pirate-medusa"]),
            st.integers(0, 3),
            st.integers(0, 9),
        ),
        st.builds(Cancel, st.integers(0, 50)),
        st.builds(Admin, st.sampled_from(["load", "unload", "pin", "unpin"]), every),
        st.builds(Steps, st.integers(1, 6)),
    ),
    min_size=5,
    max_size=30,
)


def expected_texts(
    prompts: list[tuple[int, ...]], eos: tuple[int, ...]
) -> dict[tuple[str | None, int], list[int]]:
    """What transformers and peft generate, by LoRA and prompt."""
    base, bundle = embedded.path() / "base", embedded.path() / "adapters"
    texts = {}
    for lora in (None, "pirate", "tests"):
        reference = load_reference(base, bundle / lora if lora else None, eos)
        for index, prompt in enumerate(prompts):
            texts[lora, index] = reference.greedy(prompt, NEW_TOKENS)
    return texts


class Traffic:
    """Runs operations against one core, and holds what came back against what must."""

    def __init__(self, root: Path) -> None:
        self._core = EngineCore.load(
            EngineConfig(
                str(embedded.path() / "base"),
                dtype="float32",
                deterministic=True,
                max_total_tokens=256,
                max_batch_total_tokens=1024,
                max_active_adapters=ROOM,
                adapter_roots={"": root},
            )
        )
        tokenizer = TextTokenizer.load(embedded.path() / "base")
        items = embedded.workloads()["doc"][:4]
        self._prompts = [tuple(tokenizer.encode(item["prompt"]))[-120:] for item in items]
        self._expected = expected_texts(self._prompts, tuple(sorted(tokenizer.eos_token_ids)))
        self._next_id = 0
        self._threads = ThreadPoolExecutor(4)

    def close(self) -> None:
        self._threads.shutdown()
        self._core.close()

    def play(self, script: list[Generate | Cancel | Admin | Steps]) -> None:
        asked: dict[int, Generate] = {}
        got: dict[int, list[int]] = {}
        ended: dict[int, Finished | Failed] = {}
        cancelled: set[int] = set()
        admin: list[tuple[Admin, Future[object]]] = []

        def take(events: list[Event]) -> None:
            for event in events:
                if isinstance(event, Emitted):
                    got.setdefault(event.request_id, []).extend(t.id for t in event.tokens)
                else:
                    ended[event.request_id] = event

        for operation in script:
            match operation:
                case Generate():
                    asked[self._submit(operation)] = operation
                case Cancel(which) if asked:
                    request_id = list(asked)[which % len(asked)]
                    cancelled.add(request_id)
                    self._core.cancel(request_id)
                case Admin():
                    admin.append((operation, self._threads.submit(self._administer, operation)))
                case Steps(count):
                    for _ in range(count):
                        take(self._core.step())
        deadline = time.monotonic() + 60
        while not (asked.keys() - cancelled) <= ended.keys():
            assert time.monotonic() < deadline, "the engine stalls"
            take(self._core.step())
        for operation, future in admin:
            self._check_admin(operation, future)
        for request_id in asked.keys() - cancelled:
            self._check(asked[request_id], got.get(request_id, []), ended[request_id])
        for name in (*SOUND, *COPIES):
            self._core.adapters.pin(name, False)
        self._core.check_integrity()

    def _submit(self, operation: Generate) -> int:
        self._next_id += 1
        self._core.submit(
            TokenRequest(
                self._next_id,
                self._prompts[operation.prompt],
                Parameters(max_new_tokens=NEW_TOKENS),
                Speculation(num_tokens=operation.draft),
                AdapterRef(operation.adapter),
                AdapterRef(operation.heads) if operation.heads else None,
            )
        )
        return self._next_id

    def _administer(self, operation: Admin) -> object:
        adapters = self._core.adapters
        match operation.verb:
            case "load":
                return adapters.load(AdapterRef(operation.adapter), timeout=60)
            case "unload":
                adapters.unload(operation.adapter)
                return None
            case "pin":
                return adapters.pin(operation.adapter, timeout=60)
        return adapters.pin(operation.adapter, False)

    def _check_admin(self, operation: Admin, future: Future[object]) -> None:
        """Faulty adapters raise their own error; sound ones none but for want of room."""
        error = future.exception(timeout=60)
        expected = FAULTY.get(operation.adapter)
        if expected is None:
            assert error is None or isinstance(error, Overloaded | AdapterMismatch), error
        elif operation.verb in ("load", "pin"):
            assert isinstance(error, expected), error

    def _check(self, asked: Generate, tokens: list[int], end: Finished | Failed) -> None:
        expected_error = FAULTY.get(asked.adapter)
        if isinstance(end, Failed):
            allowed: tuple[type[LoraxSpecError], ...] = (
                (expected_error,) if expected_error else (Overloaded,)
            )
            assert isinstance(end.error, allowed), (asked, end.error)
            assert not tokens
        else:
            assert expected_error is None, asked
            lora = LORA_OF.get(asked.adapter)
            assert tokens == self._expected[lora, asked.prompt], asked


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traffic]:
    root = tmp_path_factory.mktemp("adapters")
    write_adapters(root)
    traffic = Traffic(root)
    yield traffic
    traffic.close()


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(script=operations)
def test_any_traffic(traffic: Traffic, script: list[Generate | Cancel | Admin | Steps]) -> None:
    traffic.play(script)
