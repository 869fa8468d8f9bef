"""Which tokens one request may go on with: a function of the tokens it has generated."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
import xgrammar

from lorax_spec.engine.grammar.vocabulary import Vocabulary


class Constraint:
    """A grammar, and how far a text has followed it.

    Whoever goes ahead to look, by ``follow``, goes ``back`` as many tokens before anyone else
    uses it.
    """

    def __init__(
        self, grammar: xgrammar.CompiledGrammar, vocabulary: Vocabulary, device: torch.device
    ) -> None:
        self.vocabulary = vocabulary
        self._matcher = xgrammar.GrammarMatcher(grammar)
        self._device = device
        self._bits = xgrammar.allocate_token_bitmask(1, vocabulary.size)

    def follow(self, token: int) -> bool:
        """Go on with ``token``; False, and nothing changes, where the grammar forbids it."""
        if not 0 <= token < self.vocabulary.size or token in self.vocabulary.mute:
            return False
        return not self._matcher.is_terminated() and self._matcher.accept_token(token)

    def follow_all(self, tokens: Iterable[int]) -> int:
        """Go on with ``tokens`` up to the first that is forbidden; returns how many there were."""
        return sum(1 for _ in itertools.takewhile(self.follow, tokens))

    def back(self, count: int) -> None:
        """Forget the last ``count`` tokens."""
        if count:
            self._matcher.rollback(count)

    def banned(self) -> torch.Tensor:
        """Tokens that must not come next, bool [vocabulary].

        A complete text may end, by any token that ends one.  So may a text that no token of this
        vocabulary can continue.
        """
        banned = ~self._permitted()
        if bool(banned.all()):
            banned[list(self.vocabulary.eos)] = False
        return banned.to(self._device)

    def choices(self) -> list[int]:
        """The tokens that may come next; none where nothing can."""
        return self._permitted().nonzero()[:, 0].tolist()

    def forced_text(self) -> bytes:
        """The text that must come next, as far as there is only one; the tokens are left open."""
        if self._matcher.is_terminated():
            return b""
        try:
            return self._matcher.find_jump_forward_string().encode()
        except UnicodeDecodeError:
            return b""  # it begins or ends within a character

    def _permitted(self) -> torch.Tensor:
        """Bool [vocabulary], on the CPU."""
        if self._matcher.is_terminated():
            return torch.zeros(self.vocabulary.size, dtype=torch.bool)
        self._matcher.fill_next_token_bitmask(self._bits)
        bits = (self._bits[0, :, None] >> torch.arange(32, dtype=torch.int32)) & 1
        return bits.flatten()[: self.vocabulary.size].bool()
