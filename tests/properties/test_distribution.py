"""Sampling under speculation follows the model's exact distribution (issue 2, must show 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from lorax_spec import embedded
from lorax_spec.engine import verification
from lorax_spec.engine.engine import Engine
from lorax_spec.speculation.tree import ROOT, DraftTree
from lorax_spec.speculation.verify import At, Walk, verify
from lorax_spec.types import GenerateRequest, Parameters, Speculation
from tests.properties.distribution import (
    FALSE_ALARM,
    LENGTH,
    TEMPERATURE,
    TOP_K,
    Cells,
    exact_cells,
    p_value,
)

pytestmark = pytest.mark.slow

SAMPLES = 3000


@pytest.fixture(scope="module")
def prompt() -> str:
    return embedded.workloads()["code"][3]["prompt"]


@pytest.fixture(scope="module")
def cells(prompt: str) -> Cells:
    return exact_cells(prompt)


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(dtype="float32", max_total_tokens=256) as engine:
        yield engine


def sample(engine: Engine, prompt: str, samples: int) -> list[tuple[int, ...]]:
    """Continuations under draft trees wide enough that some node is accepted often."""
    answers = engine.generate(
        GenerateRequest(
            prompt,
            "demo/medusa",
            parameters=Parameters(
                max_new_tokens=LENGTH,
                temperature=TEMPERATURE,
                top_k=TOP_K,
                seed=seed,
                ignore_eos_token=True,
            ),
            speculation=Speculation(num_tokens=16),
        )
        for seed in range(samples)
    )
    accepted = sum(answer.details.skipped_tokens for answer in answers)
    assert accepted > samples // 10, "too few drafts were accepted for the test to mean anything"
    return [tuple(token.id for token in answer.details.tokens) for answer in answers]


def test_samples_follow_the_exact_distribution(engine: Engine, prompt: str, cells: Cells) -> None:
    assert p_value(sample(engine, prompt, SAMPLES), cells) > FALSE_ALARM


def _always_follow(
    trees: Sequence[DraftTree], choose: Callable[[list[At]], list[verification.Choice]]
) -> list[Walk[verification.Choice]]:
    """A verifier that takes the first child of the root whatever was sampled."""
    walks = verify(trees, choose)
    followed = []
    for index, (tree, walk) in enumerate(zip(trees, walks, strict=True)):
        if not len(tree) or walk.nodes or walk.choices[0].ends:
            followed.append(walk)
            continue
        node = tree.parents.index(ROOT)
        first = verification.Choice(
            verification.Chosen(tree.tokens[node], walk.choices[0].chosen.logprob), None
        )
        followed.append(Walk((first, choose([At(index, node)])[0]), (node,)))
    return followed


def test_a_verifier_that_trusts_drafts_is_caught(
    engine: Engine, prompt: str, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "verify", _always_follow)
    assert p_value(sample(engine, prompt, SAMPLES // 4), cells) < FALSE_ALARM
