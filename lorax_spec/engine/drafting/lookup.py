"""The drafter that copies: what followed the same words before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Rows
from hashlib import sha256

from lorax_spec.engine.drafting.drafter import Outcome, Turn
from lorax_spec.engine.sequence import Sequence
from lorax_spec.speculation.lookup_acceptance import MatchAcceptance
from lorax_spec.speculation.lookup_pool import LookupPool
from lorax_spec.speculation.offer import Offer
from lorax_spec.speculation.prompt_lookup import DRAFTER, PromptLookup
from lorax_spec.types import MergedRef

#: Adapters whose acceptance is remembered.
_ADAPTERS = 256


class PromptLookupDrafter:
    """Prompt lookup for many sequences at a time.

    Matches are ``min_match`` to ``max_match`` tokens long.  With ``pool_tokens``, up to so many
    tokens of finished requests are searched as well, by those that named the same adapter with
    the same credentials.
    """

    def __init__(self, min_match: int = 1, max_match: int = 16, pool_tokens: int = 0) -> None:
        self._shortest, self._longest = min_match, max_match
        self._pool = (
            LookupPool(pool_tokens, shortest=min_match, longest=max_match) if pool_tokens else None
        )
        self._lookups: dict[Sequence, PromptLookup] = {}
        self._acceptance: OrderedDict[str, MatchAcceptance] = OrderedDict()

    @property
    def name(self) -> str:
        return DRAFTER

    def offer(self, turns: Rows[Turn]) -> list[Offer]:
        offers = []
        for turn in turns:
            sequence = turn.sequence
            lookup = self._lookups.get(sequence) or self._begin(sequence)
            lookup.extend(sequence.tokens)
            pools = () if self._pool is None else self._pool.of(_scope(sequence))
            offers.append(lookup.offer(turn.nodes, turn.depth, pools))
        return offers

    def observe(self, outcomes: Rows[Outcome]) -> None:
        """Nothing: a lookup learns from the tokens that came, drafted or not."""

    def forget(self, sequence: Sequence) -> None:
        lookup = self._lookups.pop(sequence, None)
        if lookup is not None and self._pool is not None:
            self._pool.remember(_scope(sequence), sequence.tokens)

    def _begin(self, sequence: Sequence) -> PromptLookup:
        acceptance = self._acceptance.get(sequence.identity)
        if acceptance is None:
            acceptance = self._acceptance[sequence.identity] = MatchAcceptance()
        self._acceptance.move_to_end(sequence.identity)
        if len(self._acceptance) > _ADAPTERS:
            self._acceptance.popitem(last=False)
        lookup = PromptLookup(
            acceptance,
            sequence.request.reference,
            shortest=self._shortest,
            longest=self._longest,
        )
        self._lookups[sequence] = lookup
        return lookup


def _scope(sequence: Sequence) -> tuple[str, ...]:
    """Who may see a sequence's text: those with the same adapter, fetched with the same
    credentials."""
    scope = [sequence.identity]
    request = sequence.request
    adapter = request.adapter
    parts = adapter.parts if isinstance(adapter, MergedRef) else (adapter,)
    for one in (*parts, request.medusa):
        if one is not None:
            secret = sha256(one.api_token.encode()).hexdigest()
            scope += [one.source, one.adapter_id, one.revision, secret]
    return tuple(scope)
