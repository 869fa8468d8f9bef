"""Who guessed which token, in colours."""

from __future__ import annotations

from collections.abc import Iterable

from rich.text import Text

from lorax_spec.types import Token

_COLOURS = {
    "medusa": "bold magenta",
    "hydra": "bold red",
    "prompt_lookup": "bold green",
    "draft_model": "bold cyan",
    "lookahead": "bold yellow",
    "grammar": "bold blue",
}

_UNKNOWN = "bold"


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
