"""What only a GPU can show: captured graphs, and the same tokens and bits on it."""

from __future__ import annotations

import pytest
import torch

from lorax_spec import embedded
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import TokenRequest
from lorax_spec.types import Method
from tests.conformance.running import Outcome, run
from tests.engine.conftest import NewRequest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
ADAPTERS = [None, "demo/pirate", "demo/tests-medusa", "demo/tests", "demo/medusa"]
TOKENS = 40


def core(**options: object) -> EngineCore:
    settings: dict[str, object] = {
        "dtype": "float32",
        "device": "cuda",
        "max_total_tokens": 512,
        "adapter_roots": {"demo": embedded.path() / "adapters"},
        **options,
    }
    return EngineCore.load(EngineConfig(str(embedded.path() / "base"), **settings))  # type: ignore[arg-type]


def requests(
    prompts: dict[str, list[tuple[int, ...]]], new_request: NewRequest, method: Method
) -> list[TokenRequest]:
    kinds = sorted(prompts)
    return [
        new_request(
            prompts[kinds[index % len(kinds)]][0],
            TOKENS,
            Method.MEDUSA if method != Method.NONE and "medusa" in (name or "") else method,
            None if method == Method.NONE else 6,
            adapter=name,
        )
        for index, name in enumerate(ADAPTERS)
    ]


def ids(outcomes: list[Outcome]) -> list[list[int]]:
    return [[token.id for token in outcome.tokens] for outcome in outcomes]


def bits(outcomes: list[Outcome]) -> list[list[tuple[int, float]]]:
    return [[(token.id, token.logprob) for token in outcome.tokens] for outcome in outcomes]


def test_graphs_kernels_and_plain_torch_say_the_same(
    prompts: dict[str, list[tuple[int, ...]]], new_request: NewRequest
) -> None:
    """Drafted for or not, captured or not."""
    answers = []
    for options in ({"kernels": "torch"}, {"kernels": "triton", "eager": True}, {}):
        for method in (Method.NONE, Method.PROMPT_LOOKUP):
            own = core(**options)
            answers.append(ids(run(own, requests(prompts, new_request, method))))
            own.check_integrity()
            own.close()
    assert all(one == answers[0] for one in answers)


def test_adapters_come_and_go_without_a_capture(
    prompts: dict[str, list[tuple[int, ...]]], new_request: NewRequest
) -> None:
    own = core()
    graphs = own._model._ops.programs._graphs  # type: ignore[attr-defined]
    for name in ("demo/pirate", "demo/tests"):
        run(own, [new_request(prompts["doc"][0], TOKENS, Method.NONE, adapter=name)])
        captured = len(graphs)
    run(own, [new_request(prompts["doc"][0], TOKENS, Method.NONE, adapter="demo/pirate")])
    assert len(graphs) == captured > 0
    own.close()


def test_deterministic_is_bit_for_bit(
    prompts: dict[str, list[tuple[int, ...]]], new_request: NewRequest
) -> None:
    """Alone and in a crowd, with drafts and without."""
    own = core(deterministic=True, dtype="bfloat16")
    crowd = requests(prompts, new_request, Method.PROMPT_LOOKUP)
    together = bits(run(own, crowd))
    alone = [bits(run(own, [one]))[0] for one in requests(prompts, new_request, Method.NONE)]
    assert together == alone
    own.close()
