"""Lookahead decoding as a drafter: the forward pass that verifies also makes the next guesses."""

from __future__ import annotations

import random
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field

import torch

from lorax_spec.engine.drafting.drafter import Outcome, Turn
from lorax_spec.engine.drafting.eligible import LOOKAHEAD
from lorax_spec.engine.sampling import COLDEST
from lorax_spec.engine.sequence import Sequence
from lorax_spec.kernels.noise import gumbel_at
from lorax_spec.speculation.lookahead import Guessed, Luck, Shape, Window, guesses, shape_for
from lorax_spec.speculation.ngram_pool import NgramPool
from lorax_spec.speculation.offer import NOTHING, Offer

#: Nodes of a draft whose request leaves its size open.
_NODES = 15
#: Tokens among which a sampled choice is looked for.
_CANDIDATES = 64


@dataclass
class _State:
    """What one sequence has: ``known`` tokens when it was last offered ``offered``; ``choices``
    are what the model said at the columns' ends since."""

    window: Window
    pool: NgramPool
    known: int
    offered: Guessed | None = None
    choices: list[int | None] = field(default_factory=list)


@dataclass(frozen=True)
class _Leaf:
    """A row of logits at the end of a column, and the position of the token chosen from it."""

    outcome: int
    row: int
    position: int
    state: _State
    column: int


class LookaheadDrafter:
    """Guesses from n-grams that Jacobi iterations, the prompt and the output have brought.

    Memory is bounded for each sequence, and given back when it is forgotten.
    """

    name = LOOKAHEAD

    def __init__(self, shape: Shape | None = None) -> None:
        """``shape``: the window of every sequence, instead of one that fits its drafts."""
        self._shape = shape
        self._luck = Luck()
        self._states: dict[Sequence, _State] = {}

    def __len__(self) -> int:
        """Sequences that something is held for."""
        return len(self._states)

    def offer(self, turns: Rows[Turn]) -> list[Offer]:
        return [self._offer(turn) for turn in turns]

    def observe(self, outcomes: Rows[Outcome]) -> None:
        """Complete n-grams with what the model says at the ends of the window's columns."""
        leaves = []
        for index, outcome in enumerate(outcomes):
            state = self._states.get(outcome.sequence)
            if state is None:
                continue
            ends = state.window.leaves(outcome.draft)
            if any(node is not None for node in ends):
                state.choices = [None] * len(ends)
            for column, node in enumerate(ends):
                if node is not None:
                    depth = 0 if node < 0 else outcome.draft.depths[node]
                    leaves.append(_Leaf(index, node + 1, state.known + depth, state, column))
        if not leaves:
            return
        rows = torch.stack([outcomes[leaf.outcome].logits[leaf.row] for leaf in leaves])
        sequences = [outcomes[leaf.outcome].sequence for leaf in leaves]
        for leaf, choice in zip(leaves, _choices(rows, leaves, sequences), strict=True):
            leaf.state.choices[leaf.column] = choice
        for outcome in outcomes:
            state = self._states.get(outcome.sequence)
            if state is not None and state.choices:
                _collect(state, outcome.sequence.tokens[: state.known])

    def forget(self, sequence: Sequence) -> None:
        self._states.pop(sequence, None)

    def _offer(self, turn: Turn) -> Offer:
        sequence = turn.sequence
        tokens = sequence.tokens
        given = sequence.request.speculation.num_tokens is not None
        nodes = turn.nodes if given else min(turn.nodes, _NODES)
        state = self._states.get(sequence)
        if nodes <= 0 or turn.depth <= 0:
            return NOTHING
        if state is None:
            state = self._states[sequence] = self._begin(sequence, nodes)
        else:
            _follow(state, tokens, self._luck)
        state.pool.read(tokens)
        state.offered = guesses(
            state.window, tokens, state.pool.after, self._luck, nodes, turn.depth
        )
        return state.offered.offer(self._luck, self.name)

    def _begin(self, sequence: Sequence, nodes: int) -> _State:
        shape = self._shape or shape_for(nodes)
        tokens = sequence.tokens
        source, made_up = tuple(tokens), random.Random(sequence.rule.seed)
        window = Window(shape, tokens[-1], lambda: made_up.choice(source))
        return _State(window, NgramPool(shape.ngram - 1), len(tokens))


def _follow(state: _State, tokens: list[int], luck: Luck) -> None:
    """Learn from the tokens that came since the last offer, and move the window along."""
    came = tokens[state.known :]
    if state.offered is not None:
        state.offered.judge(came, luck)
    moved = len(came)
    if state.choices:
        moved -= state.window.grow(state.choices)
    state.window.move(moved, tokens[-1])
    state.known, state.choices, state.offered = len(tokens), [], None


def _collect(state: _State, tokens: list[int]) -> None:
    """Put the n-grams that were completed into the pool."""
    columns, length = state.window.columns, state.pool.length
    for index, (column, choice) in enumerate(zip(columns, state.choices, strict=True)):
        if choice is not None and len(column) == length:
            before = columns[index - 1][0] if index else tokens[-2] if len(tokens) > 1 else None
            beginning = [column[0]] if before is None else [before, column[0]]
            state.pool.add(beginning, [*column[1:], choice])


def _choices(rows: torch.Tensor, leaves: Rows[_Leaf], sequences: Rows[Sequence]) -> list[int]:
    """What each sequence would choose from raw logits [leaves, vocabulary]: the likeliest token,
    or, where it samples, the one that the position's own noise picks."""
    chosen: list[int] = rows.argmax(-1).tolist()
    noisy = [i for i, sequence in enumerate(sequences) if not sequence.rule.greedy]
    if noisy:
        rules = [sequences[i].rule for i in noisy]
        values, tokens = rows[noisy].topk(min(_CANDIDATES, rows.shape[1]))
        temperatures = [max(rule.temperature, COLDEST) for rule in rules]
        heat = torch.tensor(temperatures, device=rows.device)[:, None]
        positions = [leaves[i].position for i in noisy]
        scores = values / heat + gumbel_at([rule.seed for rule in rules], positions, tokens)
        for i, token in zip(
            noisy, tokens.gather(1, scores.argmax(-1, keepdim=True))[:, 0].tolist(), strict=True
        ):
            chosen[i] = token
    return chosen
