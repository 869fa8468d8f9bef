"""Who guessed which token, in colours."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from lorax_spec.types import Details, Token

_COLOURS = {
    "medusa": "bold magenta",
    "prompt_lookup": "bold green",
    "draft_model": "bold cyan",
    "lookahead": "bold yellow",
}

_UNKNOWN = "bold blue"


def colour(drafter: str) -> str:
    """The style of a token that ``drafter`` guessed; plain for the model's own."""
    return _COLOURS.get(drafter, _UNKNOWN) if drafter else ""


def painted(tokens: Iterable[Token]) -> Text:
    """The tokens as one text, special tokens left out."""
    text = Text()
    for token in tokens:
        if not token.special:
            text.append(token.text, style=colour(token.drafter))
    return text


def legend(details: Details) -> Text:
    """Which colour is who, and what was drafted, accepted and saved."""
    counts = details.speculation
    text = Text("the model itself")
    for name, drafter in sorted(counts.drafters.items()):
        text.append(" · ")
        text.append(name, style=colour(name))
        text.append(f" {drafter.accepted_tokens} of {drafter.drafted_tokens} accepted")
    passes = max(1, counts.forward_passes)
    text.append(
        f"\n{details.generated_tokens} tokens in {counts.forward_passes} forward passes, "
        f"{details.generated_tokens / passes:.2f} a pass, {details.timings.total:.2f} s"
    )
    return text
