"""The step path by kernels, interpreted where there is no GPU, gives what plain torch gives."""

from __future__ import annotations

import functools
import gc

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from lorax_spec import embedded
from lorax_spec.adapters.weights import LayerChange, LoraModule, LoraWeights, MedusaHeads
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.drafting.medusa import one_by_one
from lorax_spec.engine.drafting.medusa_at_once import all_at_once
from lorax_spec.engine.kernel_ops import kernel_ops
from lorax_spec.engine.model import LanguageModel
from lorax_spec.engine.plain_ops import plain_ops
from lorax_spec.engine.ragged_layout import BUCKETS
from lorax_spec.engine.scheduler import Scheduled
from lorax_spec.engine.sequence import Sequence
from lorax_spec.engine.slots import AdapterSlots
from lorax_spec.errors import InvalidArgument
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.kernels.triton.variant import INTERPRETED
from lorax_spec.speculation.tree import EMPTY, ROOT, DraftTree
from lorax_spec.types import Method
from tests.conformance.running import run
from tests.engine.conftest import NewRequest
from tests.engine.sequences import sequence

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
SIZES = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
BLOCKS, ADAPTERS, MOST = 64, 6, 160


@functools.cache
def models(windowed: bool) -> tuple[LanguageModel, LanguageModel]:
    """The same model by plain torch and by kernels; one of them sees nine tokens back only."""

    def new() -> LlamaForCausalLM | MistralForCausalLM:
        torch.manual_seed(0)
        if windowed:
            return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=9)).to(DEVICE)
        return LlamaForCausalLM(LlamaConfig(**SIZES)).to(DEVICE)

    plain = LanguageModel(new(), plain_ops(exact=False))
    kernels = LanguageModel(
        new(), kernel_ops(exact=False, most_tokens=MOST, slots=ADAPTERS, graphs=True)
    )
    for model in (plain, kernels):
        model.allocate_cache(BLOCKS)
    return plain, kernels


@functools.cache
def lora(number: int) -> LoraWeights:
    """Of several ranks; some leave layers as they are, one has a bias beside its update."""
    generator = torch.Generator().manual_seed(number)
    rank = (1, 4, 8, 19, 3, 8)[number]
    kept = ("q_proj", "down_proj") if number % 2 else ("k_proj", "v_proj", "gate_proj", "o_proj")
    plain, _ = models(False)
    modules = {}
    for path in plain.adapted_paths:
        if path.endswith(kept):
            out_features, in_features = plain.model.get_submodule(path).base.weight.shape
            a = torch.randn(rank, in_features, generator=generator) * in_features**-0.5
            b = torch.randn(out_features, rank, generator=generator) * 0.3
            modules[path] = LoraModule(a.to(DEVICE), b.to(DEVICE), 1.5 / (1 + number))
    changes = {}
    if number == 5:
        path = next(iter(modules))
        changes[path] = LayerChange(bias=torch.randn(len(modules[path].b)).to(DEVICE))
    return LoraWeights(modules, changes)


@st.composite
def trees(draw: st.DrawFn) -> DraftTree:
    parents: list[int] = []
    for node in range(draw(st.integers(0, 9))):
        parents.append(draw(st.integers(ROOT, node - 1)))
    tokens = tuple(range(1, len(parents) + 1))
    return DraftTree(tokens, tuple(parents), ("any",) * len(parents))


@st.composite
def companies(draw: st.DrawFn) -> list[Sequence]:
    """Sequences of any length, on any adapters, with blocks all over the cache."""
    free = draw(st.permutations(range(1, BLOCKS)))
    found = []
    for number in range(draw(st.integers(1, 4))):
        length = draw(st.sampled_from([2, 5, 17, 40]))
        tokens = draw(st.lists(st.integers(1, 95), min_size=length, max_size=length))
        one = sequence(tokens, number=number)
        one.blocks = [free.pop() for _ in range(-(-(length + 12) // BLOCK_SIZE))]
        choice = draw(st.integers(-2, ADAPTERS - 1))
        one.lora = lora(choice) if choice >= 0 else None
        found.append(one)
    return found


def same(plan: list[Scheduled], windowed: bool) -> None:
    """Both compute the plan, and agree on what it says."""
    plain, kernels = models(windowed)
    expected, actual = plain.forward(plain.lay_out(plan)), kernels.forward(kernels.lay_out(plan))
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
@given(companies(), st.booleans(), st.data())
def test_prompts_drafts_and_adapters_in_one_pass(
    company: list[Sequence], windowed: bool, data: st.DataObject
) -> None:
    """A prompt in two chunks, the second beside others' drafts; then what was accepted is kept."""
    late = company[0]
    half = len(late.tokens) // 2
    first = [Scheduled(late, 0, half, EMPTY)]
    first += [Scheduled(one, 0, len(one.tokens) - 1, EMPTY) for one in company[1:]]
    same(first, windowed)
    drafts = [data.draw(trees()) for _ in company]
    second = [Scheduled(late, half, len(late.tokens) - half, drafts[0])]
    second += [
        Scheduled(one, len(one.tokens) - 1, 1, draft)
        for one, draft in zip(company[1:], drafts[1:], strict=True)
    ]
    same(second, windowed)
    source, target = [], []
    for one, draft in zip(company, drafts, strict=True):
        path = data.draw(st.sampled_from(draft.paths)) if draft else ()
        known = len(one.tokens)
        for depth, node in enumerate(path):
            if node != depth:
                source.append(slot(one, known + node))
                target.append(slot(one, known + depth))
        one.tokens += [draft.tokens[node] for node in path]
    for model in models(windowed) if source else ():
        model.move(source, target)
    for one in company:
        one.tokens.append(7)
    same([Scheduled(one, len(one.tokens) - 1, 1, EMPTY) for one in company], windowed)


def slot(one: Sequence, key: int) -> int:
    return one.blocks[key // BLOCK_SIZE] * BLOCK_SIZE + key % BLOCK_SIZE


@pytest.mark.slow
@pytest.mark.timeout(1200)  # interpreted, on a machine with much else to do
def test_the_embedded_model_says_the_same(
    prompts: dict[str, list[tuple[int, ...]]], new_request: NewRequest
) -> None:
    """Base, LoRA and Medusa requests in one batch, two of them sampled and penalised.

    By kernels and with drafts they get what they get in plain torch without."""

    def answers(kernels: str, method: Method) -> list[list[int]]:
        core = EngineCore.load(
            EngineConfig(
                str(embedded.path() / "base"),
                dtype="float32",
                device=str(DEVICE),
                kernels=kernels,
                deterministic=False,
                max_total_tokens=256,
                adapter_roots={"demo": embedded.path() / "adapters"},
            )
        )
        adapters = [None, "demo/pirate", "demo/tests-medusa", "demo/tests"]
        sampled = {
            "do_sample": True,
            "temperature": 0.8,
            "top_k": 40,
            "repetition_penalty": 1.1,
            "frequency_penalty": 0.2,
            "seed": 3,
        }
        requests = [
            new_request(
                prompts[kind][0][-14:],
                6,
                Method.MEDUSA if method != Method.NONE and "medusa" in (name or "") else method,
                None if method == Method.NONE else 5,
                adapter=name,
                **(sampled if name in ("demo/pirate", "demo/tests-medusa") else {}),
            )
            for name, kind in zip(adapters, ("rename", "doc", "tests", "edit"), strict=True)
        ]
        try:
            outcomes = run(core, requests)
            core.check_integrity()
            if method != Method.NONE:
                accepted = [one.speculation.accepted_tokens for one in outcomes]
                assert sum(accepted) > 0 and accepted[2] > 0, "of heads too"
            return [[token.id for token in one.tokens] for one in outcomes]
        finally:
            core.close()

    assert answers("triton", Method.PROMPT_LOOKUP) == answers("torch", Method.NONE)


def test_heads_of_several_adapters_at_once() -> None:
    """Of other numbers of heads and layers, for many rows and for one."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(DEVICE)

    heads = [
        MedusaHeads(count, layers, draw(count, layers, 48, 48) / 7, draw(count, layers, 48), None)
        for count, layers in ((3, 1), (1, 2), (5, 1))
    ]
    hidden = [draw(rows, 48) for rows in (1, 18, 2)]
    expected, actual = one_by_one(heads, hidden), all_at_once(heads, hidden)
    for one, other in zip(expected, actual, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-4)
    assert all_at_once([], []) == []


def test_a_slot_is_used_again_and_keeps_nothing_alive() -> None:
    paths = models(False)[0].adapted_paths
    slots = AdapterSlots(paths, 2, DEVICE)

    def new(rank: int) -> LoraWeights:
        a, b = torch.zeros(rank, 64, device=DEVICE), torch.zeros(64, rank, device=DEVICE)
        return LoraWeights({paths[0]: LoraModule(a, b, 1.0)})

    first, second, third = new(1), new(2), new(3)
    assert len(set(slots.slots_of([first, second]))) == 2
    assert slots.slots_of([first]) == slots.slots_of([first])
    assert slots.slots_of([third, first])[0] == slots.slots_of([third])[0]
    assert slots.tables[paths[0]].most_rank >= 3
    with pytest.raises(ValueError, match="3 adapters"):
        slots.slots_of([first, second, third])
    del second, third
    gc.collect()
    fourth = new(40)
    assert slots.slots_of([fourth])[0] != slots.slots_of([first])[0]
    assert slots.tables[paths[0]].most_rank >= 40


def test_steps_of_one_form_share_their_tensors() -> None:
    _, kernels = models(False)

    def decoding(number: int) -> Scheduled:
        one = sequence(9, number=number)
        one.blocks = [1 + number]
        return Scheduled(one, 8, 1, EMPTY)

    three = kernels.lay_out([decoding(i) for i in range(3)])
    assert three.bucket == (4, 4) and three.bucket[0] in BUCKETS
    addresses = three.ids.data_ptr(), three.slots.data_ptr()
    four = kernels.lay_out([decoding(i) for i in range(4)])
    assert (four.ids.data_ptr(), four.slots.data_ptr()) == addresses
    prompt = decoding(5).sequence
    assert kernels.lay_out([Scheduled(prompt, 0, 9, EMPTY)]).bucket is None


def test_kernels_that_cannot_be_had_are_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="none of auto, torch and triton"):
        EngineCore.load(EngineConfig(str(embedded.path() / "base"), kernels="cuda"))
