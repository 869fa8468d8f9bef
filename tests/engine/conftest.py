"""Engines on the embedded model, and its prompts as tokens."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from lorax_spec import embedded
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import TokenRequest
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.types import AdapterRef, Method, Parameters, Speculation

NewRequest = Callable[..., TokenRequest]


def load_core(**options: object) -> EngineCore:
    """Exact to the bit; adapters by their bare names."""
    return EngineCore.load(
        EngineConfig(
            str(embedded.path() / "base"),
            dtype="float32",
            adapter_roots={"": embedded.path() / "adapters"},
            **{"max_total_tokens": 512, "deterministic": True, **options},  # type: ignore[arg-type]
        )
    )


@pytest.fixture(scope="module")
def core() -> Iterator[EngineCore]:
    """A roomy one; every test leaves it idle."""
    core = load_core()
    yield core
    core.check_integrity()
    core.close()


@pytest.fixture(scope="module")
def quick() -> Iterator[EngineCore]:
    """Not exact to the bit; attends whole trees at a time."""
    core = load_core(deterministic=False)
    yield core
    core.check_integrity()
    core.close()


@pytest.fixture(scope="module")
def tight() -> Iterator[EngineCore]:
    """Room for little more than one full request, prompts in chunks of 24 tokens."""
    core = load_core(max_total_tokens=256, max_batch_total_tokens=272, max_batch_prefill_tokens=24)
    yield core
    core.check_integrity()
    core.close()


@pytest.fixture(scope="session")
def prompts() -> dict[str, list[tuple[int, ...]]]:
    """Held-out prompts by workload."""
    tokenizer = TextTokenizer.load(embedded.path() / "base")
    return {
        kind: [tuple(tokenizer.encode(item["prompt"])) for item in items]
        for kind, items in embedded.workloads().items()
    }


@pytest.fixture(scope="session")
def new_request() -> NewRequest:
    """Requests with ids of their own."""
    ids = itertools.count(1)

    def new(
        prompt: tuple[int, ...],
        max_new_tokens: int = 20,
        method: Method = Method.NONE,
        num_tokens: int | None = None,
        adapter: str | None = None,
        medusa: str | None = None,
        generated: tuple[int, ...] = (),
        **parameters: object,
    ) -> TokenRequest:
        return TokenRequest(
            next(ids),
            prompt,
            Parameters(max_new_tokens=max_new_tokens, **parameters),  # type: ignore[arg-type]
            Speculation(method, num_tokens),
            AdapterRef(adapter) if adapter else None,
            AdapterRef(medusa) if medusa else None,
            generated,
        )

    return new
