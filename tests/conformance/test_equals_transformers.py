"""Greedy text equals transformers' for the base and peft's for each LoRA, whatever drafts,
alone and all together (issue 2, must show 3 and 10); acceptance is asserted beside it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.request import TokenRequest
from lorax_spec.types import AdapterRef, Method, Parameters, Speculation
from tests.conformance.families import Family, embedded_family, mistral, qwen3, random_family
from tests.conformance.reference import Reference, assert_agrees, load_reference
from tests.conformance.running import Outcome, run

pytestmark = pytest.mark.slow

NEW_TOKENS = 40


@dataclass(frozen=True)
class Mode:
    """A LoRA and a way to draft."""

    name: str
    adapter: str | None
    lora: str | None
    speculation: Speculation


@dataclass(frozen=True)
class World:
    family: Family
    references: dict[str | None, Reference]
    modes: tuple[Mode, ...]

    def core(self, **options: object) -> EngineCore:
        config = EngineConfig(
            str(self.family.base),
            dtype="float32",
            adapter_roots={"": self.family.adapters},
            **options,  # type: ignore[arg-type]
        )
        return EngineCore.load(config)

    def request(self, request_id: int, prompt: tuple[int, ...], mode: Mode) -> TokenRequest:
        return TokenRequest(
            request_id,
            prompt,
            Parameters(max_new_tokens=NEW_TOKENS),
            mode.speculation,
            AdapterRef(mode.adapter) if mode.adapter else None,
            AdapterRef(mode.speculation.medusa_adapter_id)
            if mode.speculation.medusa_adapter_id
            else None,
        )

    def assert_equal(
        self, cases: list[tuple[tuple[int, ...], Mode]], outcomes: list[Outcome]
    ) -> None:
        ties = sum(
            assert_agrees(self.references[mode.lora], prompt, NEW_TOKENS, outcome.ids)
            for (prompt, mode), outcome in zip(cases, outcomes, strict=True)
        )
        assert ties <= len(cases) // 50


def modes_of(family: Family) -> tuple[Mode, ...]:
    """Off, lookup, chain and tree of both head kinds, joint and paired, on base and LoRAs."""
    off = Speculation(Method.NONE)
    lookup = Speculation(Method.PROMPT_LOOKUP, 5)
    modes = [Mode("off", None, None, off), Mode("lookup", None, None, lookup)]
    for lora in family.loras:
        modes += [
            Mode(f"{lora} off", lora, lora, off),
            Mode(f"{lora} lookup", lora, lora, lookup),
        ]
    for heads in family.heads:
        modes += [
            Mode(f"{heads} chain", heads, None, Speculation(Method.MEDUSA, 2)),
            Mode(f"{heads} tree", heads, None, Speculation(Method.MEDUSA, 12)),
        ]
    joint_lora = family.joint if family.name != "embedded" else "tests"
    lora, heads = family.paired
    modes += [
        Mode("joint chain", family.joint, joint_lora, Speculation(Method.AUTO, 3)),
        Mode("joint tree", family.joint, joint_lora, Speculation(Method.AUTO, 9)),
        Mode("paired", lora, lora, Speculation(Method.MEDUSA, 7, heads)),
    ]
    return tuple(modes)


@pytest.fixture(scope="module", params=["embedded", "qwen3", "mistral"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    if request.param == "embedded":
        family = embedded_family()
    else:
        config = {"qwen3": qwen3, "mistral": mistral}[request.param]()
        family = random_family(config, tmp_path_factory.mktemp(request.param))
    modes = modes_of(family)
    loras = {mode.lora for mode in modes}
    references = {lora: _reference(family, lora) for lora in loras}
    yield World(family, references, modes)


def _reference(family: Family, lora: str | None) -> Reference:
    folder: Path | None = family.adapters / lora if lora else None
    return load_reference(family.base, folder, family.eos)


def test_alone(world: World) -> None:
    """One request at a time: every prompt in every mode."""
    core = world.core(max_total_tokens=512)
    cases = list(itertools.product(world.family.prompts, world.modes))
    outcomes = [run(core, [world.request(i, p, m)])[0] for i, (p, m) in enumerate(cases)]
    world.assert_equal(cases, outcomes)


def test_all_together_with_chunks_and_preemption(world: World) -> None:
    """Every prompt in every mode, mixed in each batch, in a cache too small for all of them."""
    longest = max(map(len, world.family.prompts)) + NEW_TOKENS
    core = world.core(
        max_total_tokens=longest,
        max_batch_total_tokens=longest + 12 * (NEW_TOKENS + 30),
        max_batch_prefill_tokens=48,
    )
    cases = list(itertools.product(world.family.prompts, world.modes))
    outcomes = run(core, [world.request(i, p, m) for i, (p, m) in enumerate(cases)], timeout=300)
    assert core._scheduler.preemptions > 0
    world.assert_equal(cases, outcomes)
    _assert_accepting(world, cases, outcomes)


def _assert_accepting(
    world: World, cases: list[tuple[tuple[int, ...], Mode]], outcomes: list[Outcome]
) -> None:
    """Correct verification hides wrong drafts, so what was accepted is asserted too."""
    for mode in world.modes:
        own = [o.speculation for (_, m), o in zip(cases, outcomes, strict=True) if m is mode]
        drafted = sum(s.drafted_tokens for s in own)
        accepted = sum(s.accepted_tokens for s in own)
        if mode.speculation.method is Method.NONE:
            assert drafted == 0
        elif world.family.name == "embedded":
            assert drafted > 0
            assert accepted > 0.05 * drafted, mode.name
