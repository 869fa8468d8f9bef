"""What a second model has cached of the engine's sequences: their shadows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import replace

from lorax_spec.engine.blocks import BlockPool, blocks_for
from lorax_spec.engine.sampling import SamplingRule
from lorax_spec.engine.sequence import Sequence


class Shadow:
    """A sequence as the second model sees it.

    ``row`` holds its committed tokens and, after them, what was guessed last; ``row.computed`` and
    ``row.blocks`` speak of the second model's cache.  Guesses that came true stay cached, others
    are computed over: a token's place in the cache is its place in the sequence.
    """

    def __init__(self, sequence: Sequence) -> None:
        self.row = Sequence(
            request=sequence.request,
            lease=sequence.lease,
            rule=_unpenalized(sequence.rule),
            tokens=[],
            limit=sequence.limit,
        )
        self.row.noise = sequence.noise
        self._committed = 0
        #: How sure each guess of the last chain was.
        self._sureness: list[float] = []

    def follow(self, tokens: list[int]) -> list[tuple[float, bool]]:
        """Take over the sequence's committed tokens, which only ever grow.

        Returns:
            (how sure, whether right) of each guess of the last chain that the new tokens judge:
            those up to the first wrong one.
        """
        row, known = self.row, self._committed
        agreed = known
        most = min(len(row.tokens), len(tokens))
        while agreed < most and row.tokens[agreed] == tokens[agreed]:
            agreed += 1
        judged = min(agreed + 1, most) - known
        right = agreed - known
        verdicts = [(sure, i < right) for i, sure in enumerate(self._sureness[:judged])]
        del row.tokens[agreed:]
        row.tokens += tokens[agreed:]
        # The last token is always computed, even again: what follows it is what is wanted.
        row.computed = min(row.computed, agreed, len(tokens) - 1)
        self._committed = len(tokens)
        self._sureness = []
        return verdicts

    def guess(self, token: int, sureness: float) -> None:
        """Lengthen the chain."""
        self.row.tokens.append(token)
        self._sureness.append(sureness)


class Shadows:
    """Shadows of live sequences, and the second model's blocks.

    Where the blocks do not suffice, the shadow that was unused for longest is dropped; should its
    sequence come back, it is computed anew.
    """

    def __init__(self, pool: BlockPool) -> None:
        self._pool = pool
        self._shadows: OrderedDict[Sequence, Shadow] = OrderedDict()

    def of(self, sequence: Sequence) -> Shadow:
        """The sequence's shadow, used from now on more recently than any other."""
        shadow = self._shadows.get(sequence)
        if shadow is None:
            shadow = self._shadows[sequence] = Shadow(sequence)
        self._shadows.move_to_end(sequence)
        return shadow

    def make_room(self, sequence: Sequence, tokens: int, busy: Collection[Sequence]) -> bool:
        """See that the cache holds ``tokens`` tokens of a sequence that has a shadow.

        Shadows of ``busy`` sequences are not dropped for it.  Where there is no room, it gives up
        the blocks it has, which others of ``busy`` may need.
        """
        row = self._shadows[sequence].row
        missing = blocks_for(tokens) - len(row.blocks)
        if missing <= 0:
            return True
        idle = [other for other in self._shadows if other not in busy and other is not sequence]
        droppable = sum(len(self._shadows[other].row.blocks) for other in idle)
        if self._pool.free + droppable < missing:
            self._pool.release(row.blocks)
            row.blocks, row.computed = [], 0
            return False
        while (blocks := self._pool.take(missing)) is None:
            self.forget(idle.pop(0))
        row.blocks += blocks
        return True

    def forget(self, sequence: Sequence) -> None:
        """Free what is held for a sequence; unknown ones are ignored."""
        shadow = self._shadows.pop(sequence, None)
        if shadow is not None:
            self._pool.release(shadow.row.blocks)

    @property
    def free(self) -> int:
        """Blocks that nobody holds."""
        return self._pool.free

    def check_integrity(self) -> None:
        """Raise RuntimeError unless every taken block is some shadow's."""
        self._pool.check_integrity([shadow.row.blocks for shadow in self._shadows.values()])


def _unpenalized(rule: SamplingRule) -> SamplingRule:
    """The rule without what depends on the tokens before: a guess need not follow that."""
    return replace(rule, repetition_penalty=1.0, frequency_penalty=0.0, presence_penalty=0.0)
