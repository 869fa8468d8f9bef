"""Walks on the device: exactly those of the engine's verification."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.engine.sampling import Chosen, History, Place, SamplingRule
from lorax_spec.engine.sampling import choose as choose_at
from lorax_spec.kernels import walk as reference
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.kernels.triton import sampling
from lorax_spec.kernels.triton import walk as kernel
from lorax_spec.kernels.walk import DraftRows, Walked
from lorax_spec.speculation.tree import EMPTY, ROOT, DraftTree, chain
from lorax_spec.speculation.verify import At, verify
from tests.kernels.triton.places import Row, rows_of

TOKENS = 3


@dataclass(frozen=True)
class Choice:
    token: int
    ends: bool


@dataclass(frozen=True)
class Sequence:
    """A draft, the token chosen at the root and at every node, and when to stop."""

    tree: DraftTree
    chosen: tuple[int, ...]
    remaining: int
    heeds_end: bool
    known: int
    used: bool = True


@st.composite
def sequences(draw: st.DrawFn) -> Sequence:
    size = draw(st.one_of(st.integers(0, 8), st.integers(1, 64)))
    deep = draw(st.booleans())
    tokens: list[int] = []
    parents: list[int] = []
    for node in range(size):
        nearest = max(ROOT, node - 2) if deep else ROOT
        parent = draw(st.integers(nearest, node - 1))
        taken = {t for t, p in zip(tokens, parents, strict=True) if p == parent}
        free = [token for token in range(TOKENS + 64) if token not in taken]
        tokens.append(draw(st.sampled_from(free[:TOKENS])))
        parents.append(parent)
    tree = DraftTree(tuple(tokens), tuple(parents), ("any",) * size)
    # Mostly the token of a child, or walks would be short.
    chosen = []
    for node in range(ROOT, size):
        own = [t for t, p in zip(tokens, parents, strict=True) if p == node]
        follow = own and draw(st.integers(0, 9)) > 0
        chosen.append(draw(st.sampled_from(own)) if follow else draw(st.integers(0, TOKENS)))
    remaining = draw(st.one_of(st.integers(1, 4), st.just(1000)))
    known = draw(st.integers(1, 40))
    return Sequence(tree, tuple(chosen), remaining, draw(st.booleans()), known, draw(st.booleans()))


def _tensors(
    batch: list[Sequence], ends: list[int], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, DraftRows]:
    """Rows of used sequences lie next to each other, in reverse order; every sequence has a block
    table of its own, shuffled."""

    def integers(values: object) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    first_rows = [-1] * len(batch)
    chosen: list[int] = []
    parents: list[int] = []
    tokens: list[int] = []
    for index, one in reversed(list(enumerate(batch))):
        if one.used:
            first_rows[index] = len(chosen)
            chosen += one.chosen
            # What a root's row holds must not matter.
            parents += (ROOT, *one.tree.parents)
            tokens += (one.chosen[0], *one.tree.tokens)
    longest = -(-max(one.known + 64 for one in batch) // BLOCK_SIZE)
    shuffled = torch.randperm(longest * len(batch), generator=torch.Generator().manual_seed(1))
    drafts = DraftRows(
        first_rows=integers(first_rows),
        nodes=integers([len(one.tree) for one in batch]),
        parents=integers(parents),
        tokens=torch.tensor(tokens, dtype=torch.int64, device=device),
        remaining=integers([one.remaining for one in batch]),
        heeds_end=integers([int(one.heeds_end) for one in batch]),
        ends=torch.tensor(ends, dtype=torch.int64, device=device),
        known=integers([one.known for one in batch]),
        block_tables=shuffled.view(len(batch), longest).int().to(device),
    )
    logprobs = -torch.arange(len(chosen), dtype=torch.float32, device=device) - 1
    return torch.tensor(chosen, dtype=torch.int64, device=device), logprobs, drafts


def _assert_equal(walked: Walked, expected: Walked) -> None:
    for name in Walked.__dataclass_fields__:
        assert torch.equal(getattr(walked, name).cpu(), getattr(expected, name).cpu()), name


def _assert_verified(
    walked: Walked, batch: list[Sequence], ends: list[int], drafts: DraftRows
) -> None:
    """Against the engine's way of walking and of moving keys."""
    used = [index for index, one in enumerate(batch) if one.used]
    lengths = [0] * len(used)

    def choose(places: list[At]) -> list[Choice]:
        choices = []
        for place in places:
            one = batch[used[place.tree]]
            lengths[place.tree] += 1
            token = one.chosen[place.node - ROOT]
            over = lengths[place.tree] >= one.remaining
            choices.append(Choice(token, over or (one.heeds_end and token in ends)))
        return choices

    walks = verify([batch[index].tree for index in used], choose)
    for index, walk in zip(used, walks, strict=True):
        count = len(walk.choices)
        assert int(walked.counts[index]) == count
        assert walked.tokens[index].tolist() == [c.token for c in walk.choices] + [-1] * (
            65 - count
        )
        assert walked.path[index].tolist() == [*walk.nodes] + [-1] * (65 - count)
        slots = [
            int(drafts.block_tables[index, key // BLOCK_SIZE]) * BLOCK_SIZE + key % BLOCK_SIZE
            for key in range(batch[index].known, batch[index].known + 64)
        ]
        moves = [
            (slots[node], slots[depth]) if depth != node else (-1, -1)
            for depth, node in enumerate(walk.nodes)
        ]
        moves += [(-1, -1)] * (64 - len(moves))
        found = (walked.source[index].tolist(), walked.target[index].tolist())
        assert list(zip(*found, strict=True)) == moves
        first = int(drafts.first_rows[index])
        likely = [-1.0 - first] + [-1.0 - (first + 1 + node) for node in walk.nodes]
        assert walked.logprobs[index].tolist() == likely + [0.0] * (65 - count)
    for index in set(range(len(batch))) - set(used):
        assert int(walked.counts[index]) == 0
        assert all(
            bool((getattr(walked, name)[index] == -1).all())
            for name in ("tokens", "path", "source", "target")
        )


@settings(max_examples=25)
@given(
    batch=st.lists(sequences(), min_size=1, max_size=5), ends=st.sampled_from([[], [0], [2, -1]])
)
def test_walks_are_those_of_the_verification(
    batch: list[Sequence], ends: list[int], device: torch.device
) -> None:
    chosen, logprobs, drafts = _tensors(batch, ends, device)
    expected = reference.walk(chosen, logprobs, drafts)
    _assert_verified(expected, batch, ends, drafts)
    # Room that was used before, and more of it than there are sequences.
    room = reference.allocate(len(batch) + 1, device)
    for name in Walked.__dataclass_fields__:
        getattr(room, name).fill_(77)
    kernel.walk(chosen, logprobs, drafts, room)
    _assert_equal(Walked(*(getattr(room, n)[:-1] for n in Walked.__dataclass_fields__)), expected)
    assert int(room.counts[-1]) == 77 and bool((room.path[-1] == 77).all())


def test_the_whole_of_a_chain_of_64_nodes(device: torch.device) -> None:
    guesses = tuple(range(100, 164))
    whole = Sequence(chain(guesses, "any"), (*guesses, 7), 1000, True, 5)
    batch = [whole, Sequence(EMPTY, (9,), 1, False, 3)]
    chosen, logprobs, drafts = _tensors(batch, [164], device)
    room = reference.allocate(2, device)
    kernel.walk(chosen, logprobs, drafts, room)
    assert room.counts.tolist() == [65, 1]
    assert room.tokens[0].tolist() == [*guesses, 7]
    assert bool((room.source == -1).all())


def test_many_ends_are_all_heeded(device: torch.device) -> None:
    """More of them than the kernel compares at once."""
    ends = list(range(1000, 1040))
    drafted = chain((1039, 5), "any")
    batch = [Sequence(drafted, (1039, 5, 6), 9, heeds, 1) for heeds in (True, False)]
    chosen, logprobs, drafts = _tensors(batch, ends, device)
    room = reference.allocate(2, device)
    kernel.walk(chosen, logprobs, drafts, room)
    assert room.counts.tolist() == [1, 3]


@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(1, 7),
    temperature=st.sampled_from([0.0, 0.8]),
    penalty=st.sampled_from([0.0, 0.7]),
)
def test_choosing_everywhere_at_once_walks_as_choosing_on_the_way(
    seed: int, size: int, temperature: float, penalty: float, device: torch.device
) -> None:
    """P1: the engine advances a history from node to node; here each row has its own prefix."""
    vocabulary, known, prompt = 4, 20, (1, 2)
    generator = torch.Generator().manual_seed(seed)
    parents = [int(torch.randint(max(-1, n - 2), n, (), generator=generator)) for n in range(size)]
    tokens: list[int] = []
    for node, parent in enumerate(parents):
        taken = {tokens[other] for other in range(node) if parents[other] == parent}
        tokens.append(min(set(range(vocabulary)) - taken))
    tree = DraftTree(tuple(tokens), tuple(parents), ("any",) * size)
    logits = torch.randn(size + 1, vocabulary, generator=generator)
    rule = SamplingRule(
        temperature=temperature,
        seed=seed,
        repetition_penalty=1.0 + penalty,
        frequency_penalty=penalty,
        presence_penalty=penalty,
    )

    history = History(prompt, (), vocabulary, torch.device("cpu"))
    position = known

    def choose(places: list[At]) -> list[Choice]:
        nonlocal position
        (at,) = places
        chosen: list[Chosen] = choose_at(logits, [Place(at.node + 1, position, rule, history)])
        history.advance(chosen[0].token)
        position += 1
        return [Choice(chosen[0].token, False)]

    (expected,) = verify([tree], choose)

    drawn = [Row(0, known, rule, prompt)]
    for node, parent in enumerate(parents):
        prefix = (*drawn[parent + 1].drafted, tokens[node])
        drawn.append(Row(node + 1, known + len(prefix), rule, prompt, drafted=prefix))
    room = sampling.workspace(len(drawn), vocabulary, device, filters=False, block=16)
    chosen, logprobs = sampling.sample(logits.to(device), rows_of(drawn, vocabulary, device), room)
    one = Sequence(tree, (0,) * (size + 1), 1000, False, known)
    _, _, drafts = _tensors([one], [], device)
    walked = reference.allocate(1, device)
    kernel.walk(chosen, logprobs, drafts, walked)
    count = int(walked.counts[0])
    assert walked.tokens[0, :count].tolist() == [choice.token for choice in expected.choices]
    assert walked.path[0, : count - 1].tolist() == list(expected.nodes)
