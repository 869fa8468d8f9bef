"""What a grammar forces comes for free: drafting it, and dropping guesses that it forbids."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from collections.abc import Sequence as Rows
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lorax_spec.engine.drafting.drafter import Outcome, Turn
from lorax_spec.engine.drafting.eligible import GRAMMAR
from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.offer import NOTHING, SUREST, Offer
from lorax_spec.speculation.tree import ROOT

if TYPE_CHECKING:
    from lorax_spec.engine.grammar.constraint import Constraint

#: Where so few tokens may follow, all of them are guessed.
_BRANCHES = 4
#: A guess less likely than this is not offered.
_UNLIKELY = 0.05
#: Tokens before a forced text that may change how it is split.
_CONTEXT = 4
#: The last token of a forced text is less sure: it may be the beginning of a longer one.
_LAST = 0.7
#: Observations that a sequence begins with: splits as the tokenizer makes them, single letters,
#: and any.
_PIECES, _LETTERS, _ALL = 4.0, 1.0, 5.5


@dataclass
class _Taste:
    """How a sequence splits forced text: as its tokenizer would, or letter by letter, which a
    model may prefer that was not trained for what is asked of it.

    ``expected`` holds the (piece, letter) guessed after each path of the last offer, which was
    made at ``length`` tokens.
    """

    pieces: float = _PIECES
    letters: float = _LETTERS
    all: float = _ALL
    length: int = 0
    expected: dict[tuple[int, ...], tuple[int, int]] = field(default_factory=dict)

    def note(self, tokens: list[int]) -> None:
        """Compare what was expected with what came."""
        new = tuple(tokens[self.length :])
        for index, token in enumerate(new):
            guessed = self.expected.get(new[:index])
            if guessed is not None:
                piece, letter = guessed
                self.all += 1
                self.pieces += token == piece
                self.letters += token == letter
        self.length = len(tokens)
        self.expected = {}


@dataclass(frozen=True)
class _Tip:
    """A node to grow from: the tokens that lead there, the text that must follow, and how the
    tokenizer splits it (empty: not split yet)."""

    node: int
    path: tuple[int, ...] = ()
    text: bytes = b""
    split: tuple[int, ...] = ()


class GrammarDrafter:
    """Guesses the text that a sequence's grammar leaves no choice about, and small choices."""

    name = GRAMMAR

    def __init__(self) -> None:
        self._tastes: dict[Sequence, _Taste] = {}

    def offer(self, turns: Rows[Turn]) -> list[Offer]:
        """NOTHING for sequences without a grammar."""
        return [self._offer(turn) for turn in turns]

    def observe(self, outcomes: Rows[Outcome]) -> None:
        """Nothing to learn here: the tokens that came say it all."""

    def forget(self, sequence: Sequence) -> None:
        self._tastes.pop(sequence, None)

    def _offer(self, turn: Turn) -> Offer:
        constraint = turn.sequence.grammar
        if constraint is None:
            return NOTHING
        taste = self._tastes.setdefault(turn.sequence, _Taste())
        taste.note(turn.sequence.tokens)
        tokens: list[int] = []
        parents: list[int] = []
        probabilities: list[float] = []
        # The likeliest tip grows first; the count keeps the heap from comparing tips.
        tips = [(-1.0, 0, _Tip(ROOT))]
        while tips and len(tokens) < turn.nodes:
            minus_reach, _, tip = heapq.heappop(tips)
            if len(tip.path) >= turn.depth:
                continue
            for token, probability, text, split in _next(turn.sequence, constraint, tip, taste):
                reach = -minus_reach * probability
                if reach < _UNLIKELY or len(tokens) >= turn.nodes:
                    continue
                node = len(tokens)
                tokens.append(token)
                parents.append(tip.node)
                probabilities.append(probability)
                grown = _Tip(node, (*tip.path, token), text, split)
                heapq.heappush(tips, (-reach, node + 1, grown))
        return Offer(tuple(tokens), tuple(parents), tuple(probabilities), (GRAMMAR,) * len(tokens))


def _next(
    sequence: Sequence, constraint: Constraint, tip: _Tip, taste: _Taste
) -> Iterator[tuple[int, float, bytes, tuple[int, ...]]]:
    """What may follow ``tip``: (token, probability, text forced after it, its split)."""
    vocabulary, text, split = constraint.vocabulary, tip.text, tip.split
    if not text:
        followed = constraint.follow_all(tip.path)
        if followed == len(tip.path):
            text = constraint.forced_text()
            choices = [] if text else constraint.choices()
        else:
            choices = []
        constraint.back(followed)
        # A token that ends the text needs no guess: nothing follows it.
        if 0 < len(choices) <= _BRANCHES:
            for token in choices:
                if token not in vocabulary.eos:
                    yield token, SUREST / len(choices), b"", ()
        if not text:
            return
    if not split:
        split = _split(constraint, (*sequence.tokens, *tip.path)[-_CONTEXT:], text)
    if not split:
        return
    piece = split[0]
    spelled = vocabulary.pieces[piece]
    letter = vocabulary.letters.get(text[:1], piece)
    if not spelled or not text.startswith(spelled):
        return
    rest = text[len(spelled) :]
    certainty = SUREST if rest else _LAST
    if letter == piece:
        yield piece, certainty, rest, split[1:]
        return
    taste.expected[tip.path] = piece, letter
    yield piece, certainty * taste.pieces / taste.all, rest, split[1:]
    yield letter, SUREST * taste.letters / taste.all, text[1:], ()


def _split(constraint: Constraint, before: tuple[int, ...], text: bytes) -> tuple[int, ...]:
    """The tokens of a forced text, as the tokenizer splits it after what comes before."""
    tokenizer = constraint.vocabulary.tokenizer
    context: str = tokenizer.decode(list(before))
    known: list[int] = tokenizer.encode(context, add_special_tokens=False).ids
    forced = text.decode(errors="ignore")
    both: list[int] = tokenizer.encode(context + forced, add_special_tokens=False).ids
    if both[: len(known)] == known and len(both) > len(known):
        return tuple(both[len(known) :])
    alone: list[int] = tokenizer.encode(forced, add_special_tokens=False).ids
    return tuple(alone)


def allowed(sequence: Sequence, offer: Offer) -> Offer:
    """``offer`` without the nodes that the sequence's grammar forbids, and what hangs on them."""
    constraint = sequence.grammar
    if constraint is None or not len(offer):
        return offer
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(offer.parents):
        children.setdefault(parent, []).append(node)
    kept: list[int] = []

    def keep_below(parent: int) -> None:
        for node in children.get(parent, ()):
            if constraint.follow(offer.tokens[node]):
                kept.append(node)
                keep_below(node)
                constraint.back(1)

    keep_below(ROOT)
    if len(kept) == len(offer):
        return offer
    kept.sort()
    place = {ROOT: ROOT} | {node: index for index, node in enumerate(kept)}
    return Offer(
        tuple(offer.tokens[node] for node in kept),
        tuple(place[offer.parents[node]] for node in kept),
        tuple(offer.probabilities[node] for node in kept),
        tuple(offer.drafters[node] for node in kept),
        offer.whole,
    )
