"""Prompt lookup: draft what followed the same words earlier in this sequence.

(Saxena 2023, "Prompt Lookup Decoding"; here with the longest match of an index that grows with
the sequence, several continuations as branches, each as likely as such matches have proved to be,
and copies that are followed through their changes.  The shared pool is an idea of Oliaro, Jia,
Campos and Qiao 2025, "SuffixDecoding".)
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

from lorax_spec.speculation.lookup_acceptance import (
    BACK_IN_COPY,
    DEPTHS,
    EARLIER,
    LONE,
    MOST,
    ONLY,
    POOLED,
    RECENT,
    SOME,
    MatchAcceptance,
    copy_kind,
    match_kind,
    resume_kind,
)
from lorax_spec.speculation.lookup_copy import Copying
from lorax_spec.speculation.lookup_index import BORDER, LookupIndex
from lorax_spec.speculation.lookup_tree import GrowingTree
from lorax_spec.speculation.offer import NOTHING, Offer
from lorax_spec.speculation.tree import ROOT

DRAFTER = "prompt_lookup"
#: Continuations that become branches.
_LINES = 3
#: A copy this long, whose next token is then nearly certain, is offered alone.
_SURE = 8
#: A match this near the end that does not reach back as far is of another kind.
_RECENT = 10
#: How fast what a sequence's own guesses were worth is forgotten, for each guess; and how many
#: right and wrong guesses as expected it starts with.
_FADING, _TRUST = 0.95, 3.0
_MOST_LIKELY = 0.98
#: Near enough to one to be left out.
_AS_EXPECTED = 0.05
_by_chance = itemgetter(0)


#: A continuation: its first token's chance, its kind, and where it is read: text, index.
_Line = tuple[float, int, list[int], int]


class PromptLookup:
    """What one growing sequence, and a reference text beside it, have to offer.

    ``acceptance`` learns from this sequence, and others may share it.
    """

    def __init__(
        self,
        acceptance: MatchAcceptance,
        reference: Sequence[int] = (),
        *,
        shortest: int = 1,
        longest: int = 16,
    ) -> None:
        self.index = LookupIndex(shortest, longest)
        if reference:
            self.index.extend(reference)
            self.index.begin()
        self._first = len(self.index)
        self._shortest = shortest
        self._acceptance = acceptance
        self._copying = Copying()
        # The likeliest line offered last: where it begins in the text, its kind and its tokens.
        self._guessed_at = 0
        self._guess: tuple[int, list[int]] | None = None
        self._expected = self._right = _TRUST

    def extend(self, tokens: Sequence[int]) -> None:
        """Take in what is new of ``tokens``, the whole sequence so far."""
        index = self.index
        start = len(index.text)
        new = tokens[start - self._first :]
        if not new:
            return
        index.extend(new)
        if start > self._first:
            self._copying.follow(index.text, start)
        if self._guess is not None:
            self._learn(*self._guess, index.text[self._guessed_at :])

    def offer(self, nodes: int, depth: int, pools: Sequence[LookupIndex] = ()) -> Offer:
        """A tree of up to ``2 * nodes`` guesses, at least ``nodes`` of them where anything
        matches and goes on for long enough; ``pools`` are searched for longer matches."""
        reach = min(nodes, depth)
        if reach <= 0 or len(self.index) == self._first:
            return NOTHING
        lines = self._lines(pools, reach)
        if not lines:
            return NOTHING
        self._guessed_at = len(self.index)
        return self._tree(lines, nodes, reach)

    def _learn(self, kind: int, guess: list[int], truth: list[int]) -> None:
        expected, right = self._expected, self._right
        chances = self._acceptance.chances[kind]
        for chance, guessed, token in zip(chances, guess, truth, strict=False):
            expected = expected * _FADING + chance
            right = right * _FADING + (guessed == token)
            if guessed != token:
                break
        self._expected, self._right = expected, right
        self._acceptance.learn(kind, guess, truth)
        self._guess = None

    def _lines(self, pools: Sequence[LookupIndex], reach: int) -> list[_Line]:
        """Where to go on reading, the likeliest first."""
        text, copying, chances = self.index.text, self._copying, self._acceptance.chances
        lines: list[_Line] = []
        known = 0
        if copying.source:
            known = copying.source
            kind = BACK_IN_COPY if copying.doubtful else copy_kind(copying.length)
            lines.append((chances[kind][0], kind, text, known))
            if copying.length >= _SURE and BORDER not in text[known : known + reach]:
                return lines
        elif copying.left:
            changed = text[copying.changed_at :]
            known = copying.left + 1
            for start, replaced_again in copying.resumptions(text, changed):
                kind = BACK_IN_COPY if replaced_again else resume_kind(len(changed))
                lines.append((chances[kind][0], kind, text, start))
        matches = self.index.matches(text)
        if matches:
            copying.offer(matches[0][1], matches[0][0], len(text))
        self._add(lines, text, matches, known, pooled=False)
        longest = matches[0][0] if matches else 0
        for pool in pools:
            found = [match for match in pool.matches(text) if match[0] > longest]
            self._add(lines, pool.text, found, 0, pooled=True)
        if len(lines) > 1:
            lines.sort(key=_by_chance, reverse=True)
        return lines

    def _add(
        self,
        lines: list[_Line],
        text: list[int],
        matches: list[tuple[int, int]],
        known: int,
        pooled: bool,
    ) -> None:
        """The first of ``matches``, but ``known``, as likely as they agree with one another."""
        chances, total, end = self._acceptance.chances, len(matches), len(self.index)
        following = [text[start] for _, start in matches]
        left = _LINES
        for length, start in matches:
            token = text[start]
            if start == known or token == BORDER:
                continue
            alike = following.count(token)
            agreement = (
                ONLY if total == 1 else LONE if alike == 1 else SOME if 2 * alike <= total else MOST
            )
            where = POOLED if pooled else RECENT if _recent(length, end - start) else EARLIER
            kind = match_kind(length, agreement, where)
            lines.append((chances[kind][0], kind, text, start))
            left -= 1
            if not left:
                return

    def _tree(self, lines: list[_Line], nodes: int, reach: int) -> Offer:
        trust = (self._right + _TRUST) / (self._expected + _TRUST)
        self._guess = None
        text, swaps = self.index.text, self._copying.swaps
        tree = GrowingTree(nodes)
        for line in lines:
            first, kind, source, start = line
            if tree.full(first):
                break
            chances = self._chances(kind, trust, reach)
            tokens = _read(source, start, reach)
            if swaps and source is text and not swaps.keys().isdisjoint(tokens):
                tokens = self._grow_swapping(tree, line, chances, reach)
            else:
                tree.grow(ROOT, tokens, chances)
            if line is lines[0] and tokens:
                self._guess = kind, tokens
        return tree.offer(DRAFTER)

    def _chances(self, kind: int, trust: float, reach: int) -> list[float]:
        chances = self._acceptance.chances[kind]
        if abs(trust - 1) > _AS_EXPECTED:
            chances = [min(_MOST_LIKELY, trust * chance) for chance in chances]
        if reach > DEPTHS:
            chances = chances + chances[-1:] * (reach - DEPTHS)
        return chances

    def _grow_swapping(
        self, tree: GrowingTree, line: _Line, chances: list[float], reach: int
    ) -> list[int]:
        """A line through tokens that were replaced before: as they are, or replaced again,
        whatever is likelier, with the other as a branch.  Returns the tokens before that."""
        _, _, text, begin = line
        swaps = self._copying.swaps
        depth, at, swap = 0, begin, None
        while depth < reach and at < len(text) and text[at] != BORDER:
            swap = swaps.get(text[at])
            if swap is not None and text[at : at + len(swap.old)] == swap.old:
                break
            swap = None
            depth, at = depth + 1, at + 1
        if swap is None:
            tokens = _read(text, begin, reach)
            tree.grow(ROOT, tokens, chances)
            return tokens
        start, room = text[begin:at], reach - depth
        parent = tree.grow(ROOT, start, chances)
        if parent is None:
            return start
        swapped = [*swap.new, *_read(text, at + len(swap.old), room)][:room]
        branches = [(swap.chance, swapped), (1 - swap.chance, _read(text, at, room))]
        branches.sort(reverse=True)
        for part, branch in branches:
            tree.grow(parent, branch, [part * chances[depth], *chances[depth + 1 :]])
        return start


def _recent(length: int, distance: int) -> bool:
    """Whether to go on there would begin to repeat the very last tokens, not yet seen to repeat."""
    return length < distance <= _RECENT


def _read(text: list[int], start: int, count: int) -> list[int]:
    """Up to ``count`` tokens from ``start``, not beyond the document; past the text's end they
    read on in themselves: a match that overlaps the suffix means that the text repeats."""
    tokens = text[start : start + count]
    if BORDER in tokens:
        return tokens[: tokens.index(BORDER)]
    if 0 < len(tokens) < count:
        tokens *= -(-count // len(tokens))
    return tokens[:count]
