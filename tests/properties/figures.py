"""What a response says of its own speculation must add up, and be what was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.drafting.eligible import (
    DRAFT_MODEL,
    GRAMMAR,
    HYDRA,
    LOOKAHEAD,
    LOOKUP,
    MEDUSA,
)
from lorax_spec.engine.sequence import Sequence
from lorax_spec.types import FinishReason, GenerateRequest, Method, Response
from tests.engine.watch import looking

#: Who may draft where a method is asked for, beside the grammar.
ALLOWED: dict[Method, set[str]] = {
    Method.NONE: set(),
    Method.AUTO: {MEDUSA, HYDRA, LOOKUP, DRAFT_MODEL},
    Method.MEDUSA: {MEDUSA, HYDRA},
    Method.PROMPT_LOOKUP: {LOOKUP},
    Method.DRAFT_MODEL: {DRAFT_MODEL},
    Method.LOOKAHEAD: {LOOKAHEAD},
}


def check_figures(request: GenerateRequest, response: Response) -> None:
    """Of a request with details; with ``best_of`` they are those of the sequence that won."""
    details, asked = response.details, request.speculation
    figures = details.speculation
    # A stop string that a guess completed cuts off the token that its pass chose itself.
    cut = details.finish_reason is FinishReason.STOP_SEQUENCE and details.tokens[-1].skipped
    assert figures.accepted_tokens + figures.forward_passes == details.generated_tokens + cut
    assert figures.accepted_tokens == details.skipped_tokens
    guessed = Counter(token.drafter for token in details.tokens if token.skipped)
    assert {name: one.accepted_tokens for name, one in figures.drafters.items()} == {
        name: guessed[name] for name in figures.drafters
    }
    assert figures.accepted_tokens == guessed.total()
    assert figures.drafted_tokens == sum(o.drafted_tokens for o in figures.drafters.values())
    for one in figures.drafters.values():
        assert one.drafted_tokens == sum(one.drafted_by_depth)
        assert one.accepted_tokens == sum(one.accepted_by_depth)
        pairs = zip(one.accepted_by_depth, one.drafted_by_depth, strict=True)
        assert all(0 <= accepted <= drafted for accepted, drafted in pairs)
    if asked.num_tokens is not None:
        # The first pass computes the prompt.
        assert figures.drafted_tokens <= asked.num_tokens * (figures.forward_passes - 1)


@contextmanager
def drafts_as_asked(core: EngineCore, most_ahead: int) -> Iterator[None]:
    """While this is open, every draft is by those asked for, and no larger than asked for;
    ``most_ahead``: the server's own bound of depth."""

    def look(sequence: Sequence) -> None:
        asked, draft = sequence.request.speculation, sequence.draft
        allowed = ALLOWED[asked.method]
        if sequence.grammar is not None and asked.method is not Method.NONE:
            allowed = allowed | {GRAMMAR}
        assert set(draft.drafters) <= allowed
        deepest = max(draft.depths, default=0)
        assert deepest <= max(0, sequence.draft_room)
        if asked.num_tokens is None:
            assert deepest <= most_ahead
        else:
            assert len(draft) <= asked.num_tokens

    with looking(core, look):
        yield
