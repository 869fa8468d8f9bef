"""Log-probabilities, in the shapes of chats and of completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lorax_spec.router.web.answers import logprob
from lorax_spec.router.web.openai.answers import (
    ChatLogprobs,
    CompletionLogprobs,
    TokenLogprob,
    TopLogprob,
)
from lorax_spec.types import AlternativeToken, PrefillToken, Token


def chat_logprobs(tokens: Iterable[Token]) -> ChatLogprobs:
    return ChatLogprobs(
        content=[
            TokenLogprob(
                **_top(token).model_dump(),
                top_logprobs=[_top(other) for other in token.alternative_tokens],
            )
            for token in tokens
        ]
    )


def completion_logprobs(
    tokens: Sequence[Token], offset: int, prefill: Sequence[PrefillToken] = ()
) -> CompletionLogprobs:
    """``offset`` counts the characters before the first of them; ``prefill`` go first."""
    texts = [*(token.text for token in prefill), *(token.text for token in tokens)]
    offsets = []
    for text in texts:
        offsets.append(offset)
        offset += len(text)
    return CompletionLogprobs(
        tokens=texts,
        token_logprobs=[
            *(token.logprob for token in prefill),
            *(logprob(token.logprob) for token in tokens),
        ],
        top_logprobs=[*(None for _ in prefill), *map(_tops, tokens)],
        text_offset=offsets,
    )


def _tops(token: Token) -> dict[str, float] | None:
    """The likeliest by text; of two with one text, the likelier."""
    found: dict[str, float] = {}
    for other in token.alternative_tokens:
        found.setdefault(other.text, logprob(other.logprob))
    return found or None


def _top(token: Token | AlternativeToken) -> TopLogprob:
    return TopLogprob(
        token=token.text, logprob=logprob(token.logprob), bytes=list(token.text.encode())
    )
