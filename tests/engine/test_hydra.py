"""What Hydra heads offer, against transformers' hidden states and embeddings, path by path.

Correct verification hides wrong drafts, so offers are compared themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Rows
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec import embedded
from lorax_spec.adapters.weights import HydraHeads
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.drafting.drafter import Turn
from lorax_spec.engine.drafting.hydra import CANDIDATES, HydraDrafter
from lorax_spec.engine.drafting.level_cost import LevelCost
from lorax_spec.engine.request import TokenRequest
from lorax_spec.engine.sequence import Sequence
from lorax_spec.errors import AdapterMismatch
from lorax_spec.speculation.offer import NOTHING
from lorax_spec.speculation.tree import DraftTree
from lorax_spec.types import Method, Speculation
from tests.adapters.writers import lora_config, write_lora
from tests.conformance.running import run
from tests.engine.conftest import NewRequest
from tests.engine.hydra_heads import (
    Transformers,
    assert_probabilities,
    by_softmax,
    drafted,
    expected,
    read,
    searched,
    turn,
    write,
)
from tests.engine.reference import reference
from tests.engine.watch import looking

Prompts = dict[str, list[tuple[int, ...]]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("hydra")
    return [write(root / f"h{seed}", seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def texts(prompts: Prompts) -> list[tuple[int, ...]]:
    return [prompt[:60] for kind in ("rename", "code") for prompt in prompts[kind][:3]]


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_an_offer_is_the_best_of_a_beam_search(
    folders: list[Path], texts: list[tuple[int, ...]], data: st.DataObject
) -> None:
    """In any batch of sequences of several adapters, and of none."""
    asked = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from([None, 1, 2]),
                st.sampled_from(texts),
                st.integers(0, 40),
                st.integers(0, 5),
                st.sampled_from([0.0, 0.004, 0.03, 0.2]),
            ),
            min_size=1,
            max_size=5,
        )
    )
    width = data.draw(st.integers(1, 5))
    turns = [
        turn(text, None if seed is None else read(folders[seed - 1]), nodes, depth, least)
        for seed, text, nodes, depth, least in asked
    ]
    offers = HydraDrafter(Transformers(), by_softmax, width).offer(turns)
    for (seed, text, nodes, depth, least), offer in zip(asked, offers, strict=True):
        if seed is None or not nodes or not depth:
            assert offer == NOTHING
            continue
        found = searched(seed, text, 2 * nodes, depth, width)
        # Those that tie with the least, or with the last one, may be there or not.
        best = [one for one in found if one.reach > least * 0.999]
        sure = [one for one in best if one.reach > least * 1.001]
        assert len(sure) <= len(offer) <= len(best)
        if not offer:
            continue
        assert_probabilities(offer, seed, text)
        assert set(offer.drafters) == {"hydra"}
        paths = {drafted(offer, node) for node in range(len(offer))}
        assert len(paths) == len(offer)
        assert {one.tokens for one in sure if one.reach > best[-1].reach * 1.001} <= paths
        assert min(offer.reach) >= best[-1].reach * 0.999


def test_the_guess_depends_on_the_path(folders: list[Path], texts: list[tuple[int, ...]]) -> None:
    """Or the tests above would not tell Hydra heads from Medusa heads."""
    contrast = {1: 1.0, 2: 1.0}
    for text in texts:
        (offer,) = HydraDrafter(Transformers(), by_softmax).offer(
            [turn(text, read(folders[0]), 60)]
        )
        doubts: dict[int, float] = {}
        for probability, parent in zip(offer.probabilities, offer.parents, strict=True):
            doubts[parent] = min(1.0 - probability, doubts.get(parent, 1.0))
        for depth in contrast:
            level = [p for node, p in doubts.items() if len(drafted(offer, node)) == depth]
            assert len(level) == 4
            contrast[depth] = max(contrast[depth], max(level) / min(level))
    assert min(contrast.values()) > 2.0


TREES = [
    ((0,),),
    ((0,), (0, 0), (0, 0, 0)),
    ((0,), (2,), (12,), (2, 0), (2, 5), (2, 5, 1), (0, 1), (12, 20)),
]


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("depth", [1, 2, 3, 9])
def test_a_static_tree_is_offered_and_nothing_else(
    folders: list[Path],
    texts: list[tuple[int, ...]],
    tree: tuple[tuple[int, ...], ...],
    depth: int,
) -> None:
    heads = replace(read(folders[1]), choices=tree)
    drafter = HydraDrafter(Transformers(), by_softmax, 1)
    for text in texts[:2]:
        (offer,) = drafter.offer([turn(text, heads, 32, depth)])
        assert_probabilities(offer, 2, text)
        wanted = set()
        for path in tree:
            tokens: tuple[int, ...] = ()
            for rank in path[:depth]:
                order = expected(2, text, tokens).argsort(descending=True)
                tokens = (*tokens, int(order[rank]))
            wanted.add(tokens)
        assert {drafted(offer, node) for node in range(len(offer))} == wanted


def test_a_static_tree_beyond_the_budget_keeps_its_likeliest(
    folders: list[Path], texts: list[tuple[int, ...]]
) -> None:
    drafter = HydraDrafter(Transformers(), by_softmax)
    heads = replace(read(folders[1]), choices=TREES[2])
    whole, cut = (drafter.offer([turn(texts[0], heads, nodes)])[0] for nodes in (32, 2))
    assert len(whole) == len(TREES[2]) and len(cut) == 4
    best = sorted(zip(whole.reach, map(whole.tokens.__getitem__, range(8)), strict=True))[-4:]
    assert sorted(cut.reach) == pytest.approx([reach for reach, _ in best])


def test_another_ranking_decides_what_is_offered(
    folders: list[Path], texts: list[tuple[int, ...]]
) -> None:
    seen = []

    def backwards(
        logits: torch.Tensor, turns: Rows[Turn], depth: int, heads: HydraHeads, most: int
    ) -> list[list[tuple[int, float]]]:
        assert logits.dtype == torch.float32 and len(logits) == len(turns)
        seen.append((depth, [turn.sequence.tokens[-1] for turn in turns]))
        return by_softmax(-logits, turns, depth, heads, most)

    mine = [turn(text, read(folders[0]), 8) for text in texts[:2]]
    offers = HydraDrafter(Transformers(), backwards).offer(mine)
    for text, offer in zip(texts, offers, strict=False):
        assert offer.tokens[0] == int(expected(1, text, ()).argmin())
    assert [depth for depth, _ in seen] == [1, 2, 3]
    assert seen[0][1] == [text[-1] for text in texts[:2]]


class Levels(LevelCost):
    """Says which levels pay, and notes what it was asked."""

    def __init__(self, *answers: bool) -> None:
        self.answers, self.asked = list(answers), list[tuple[float, int, float, int]]()

    @contextmanager
    def level(self, rows: int) -> Iterator[None]:
        yield

    def pays(self, gain: float, rows: int, expected: float, sequences: int) -> bool:
        self.asked.append((gain, rows, expected, sequences))
        return self.answers.pop(0)


def test_levels_that_are_not_worth_it_are_left_out_unless_they_were_ordered(
    folders: list[Path], texts: list[tuple[int, ...]]
) -> None:
    heads = read(folders[0])
    free = [turn(text, heads, 8) for text in texts[:2]]
    given = turn(texts[2], heads, 8)
    given.sequence.request = replace(given.sequence.request, speculation=Speculation(num_tokens=8))
    everything = HydraDrafter(Transformers(), by_softmax).offer([*free, given])
    for answers, depth in (((False,), 1), ((True, False), 2), ((True, True), 3)):
        levels = Levels(*answers)
        offers = HydraDrafter(Transformers(), by_softmax, cost=levels).offer([*free, given])
        assert not levels.answers
        assert offers[2] == everything[2]
        for offer, whole in zip(offers[:2], everything, strict=False):
            lengths = {len(drafted(offer, node)) for node in range(len(offer))}
            assert max(lengths) <= depth
            if depth == 3:
                assert offer == whole
        assert all(0.0 < gain <= 2.0 for gain, *_ in levels.asked)
        assert all(2.0 < expected <= 8.0 for _, _, expected, _ in levels.asked)
        assert [asked[3] for asked in levels.asked] == [2] * len(levels.asked)


def test_who_can_go_no_further_gains_nothing_from_a_level(
    folders: list[Path], texts: list[tuple[int, ...]]
) -> None:
    heads, alone, beside = read(folders[0]), Levels(True, True), Levels(True, True)
    deep, shallow = turn(texts[0], heads, 8), turn(texts[1], heads, 8, depth=1)
    HydraDrafter(Transformers(), by_softmax, cost=alone).offer([deep])
    HydraDrafter(Transformers(), by_softmax, cost=beside).offer([deep, shallow])
    for (gain, *_), (same, _, tokens, sequences) in zip(alone.asked, beside.asked, strict=True):
        assert same == pytest.approx(gain, rel=1e-4)
        assert tokens > 2.0 and sequences == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 0.0])
def test_broken_scores_break_no_offer(
    folders: list[Path], texts: list[tuple[int, ...]], value: float
) -> None:
    """Large weights in half precision may overflow; other requests are in the same step."""

    class Broken(Transformers):
        def head_logits(self, states: torch.Tensor) -> torch.Tensor:
            return torch.full_like(super().head_logits(states), value)

    drafter = HydraDrafter(Broken())
    (offer,) = drafter.offer([turn(texts[0], read(folders[0]))])
    for node, (parent, probability) in enumerate(
        zip(offer.parents, offer.probabilities, strict=True)
    ):
        assert parent < node and 0 < probability <= 1
    assert len(set(zip(offer.parents, offer.tokens, strict=True))) == len(offer)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineCore]:
    """An engine with Hydra heads, the same and a LoRA in one folder, and that LoRA alone."""
    root = tmp_path_factory.mktemp("served")
    write(root / "hydra", 1)
    for folder in (write(root / "joint", 2), root / "lora"):
        config = lora_config(base_model_name_or_path="", r=2)
        write_lora(folder, config, lora_of_the_base())
    core = EngineCore.load(
        EngineConfig(
            str(embedded.path() / "base"),
            dtype="float32",
            deterministic=True,
            adapter_roots={"": root},
            max_total_tokens=256,
        )
    )
    yield core
    core.check_integrity()
    core.close()


def lora_of_the_base() -> dict[str, torch.Tensor]:
    noise = torch.Generator().manual_seed(5)
    module = "model.layers.0.self_attn.q_proj"
    out_features, in_features = reference().get_submodule(module).weight.shape
    return {
        f"base_model.model.{module}.{name}.weight": 0.05 * torch.randn(*size, generator=noise)
        for name, size in {"lora_A": (2, in_features), "lora_B": (out_features, 2)}.items()
    }


def test_the_engine_drafts_with_the_heads_a_request_names(
    serving: EngineCore, texts: list[tuple[int, ...]], new_request: NewRequest
) -> None:
    """Its adapter's own, or those it is paired with; and no token changes."""
    seen: dict[int, list[tuple[tuple[int, ...], DraftTree]]] = {}

    def look(sequence: Sequence) -> None:
        drafts = seen.setdefault(sequence.request.request_id, [])
        drafts.append((tuple(sequence.tokens), sequence.draft))

    def ask(method: Method, number: int | None) -> list[TokenRequest]:
        def request(text: int, adapter: str | None, paired: str | None = None) -> TokenRequest:
            heads = paired if method is not Method.NONE else None
            return new_request(texts[text], 8, method, number, adapter, heads)

        return [
            request(0, "hydra"),
            request(1, None, "hydra"),
            request(2, "joint"),
            request(3, "joint", "hydra"),
            request(4, "lora", "hydra"),
        ]

    plain = run(serving, ask(Method.NONE, None))
    for method, number in ((Method.MEDUSA, 1), (Method.AUTO, 5)):
        requests = ask(method, number)
        with looking(serving, look):
            outcomes = run(serving, requests)
        assert [outcome.ids for outcome in outcomes] == [outcome.ids for outcome in plain]
        for outcome in outcomes:
            assert outcome.error is None
            assert set(outcome.speculation.drafters) == {"hydra"}
        for request in requests[:2]:
            for tokens, draft in seen[request.request_id]:
                assert len(draft) == number or len(tokens) > len(request.prompt) + 5
                for node, parent in enumerate(draft.parents):
                    path = drafted(draft, parent)
                    ranks = expected(1, tokens, path).argsort(descending=True).tolist()
                    assert ranks.index(draft.tokens[node]) < (1 if number == 1 else CANDIDATES)


def test_a_request_for_heads_that_are_not_there_is_refused(
    serving: EngineCore, texts: list[tuple[int, ...]], new_request: NewRequest
) -> None:
    for adapter, paired in (("lora", None), ("hydra", "lora"), (None, None)):
        request = new_request(texts[0], 4, Method.MEDUSA, 2, adapter, paired)
        (outcome,) = run(serving, [request])
        assert isinstance(outcome.error, AdapterMismatch)
        assert "has no Medusa or Hydra heads to draft with" in outcome.error.message
