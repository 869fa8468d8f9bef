"""Token ids in, text out, one token at a time."""

from __future__ import annotations

from collections.abc import Sequence

from lorax_spec.text.tokenizer import TextTokenizer

#: What a decoder writes for bytes that are no character (yet).
_REPLACEMENT = "\ufffd"

#: A character has at most four bytes, so it is complete, or broken, after so many more tokens.
_MAX_PENDING = 3


class Detokenizer:
    """Decodes a growing run of tokens without ever showing half a character.

    A token that ends inside a character gives less text, and the one that completes the character
    gives the rest.  All texts and the last ``flush`` together are the decoded whole, special tokens
    skipped.  (One exception lies in the byte-fallback decoder: a run of byte tokens that is no
    UTF-8 is replaced there as a whole, also the characters of it that were shown already.)

    tokenizers' DecodeStream does the same but keeps the last broken character for ever.
    """

    def __init__(self, tokenizer: TextTokenizer, context: Sequence[int] = ()) -> None:
        """``context`` is what the tokens continue: it decides on a leading space."""
        self._tokenizer = tokenizer
        self._window = list(context)
        self._shown = len(tokenizer.decode(self._window))
        self._settled = len(self._window)
        self._held = ""
        self._waiting = 0

    @property
    def pending(self) -> bool:
        """Whether the last token left an incomplete character."""
        return bool(self._held)

    def add(self, token_id: int) -> str:
        """The text that ``token_id`` completes."""
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)
        ready = max(self._shown, len(text.rstrip(_REPLACEMENT)))
        if self._waiting >= _MAX_PENDING:
            ready = max(ready, len(text) - _MAX_PENDING)
        new, self._held = text[self._shown : ready], text[ready:]
        self._shown = ready
        self._waiting = self._waiting + 1 if self._held else 0
        if new and not self._held:
            self._trim()
        return new

    def flush(self) -> str:
        """What is left when no more tokens come: broken characters, as replacements."""
        held, self._held = self._held, ""
        self._shown += len(held)
        return held

    def _trim(self) -> None:
        """Keep only the tokens of the last text as context, so that each step stays cheap."""
        self._window = self._window[self._settled :]
        self._shown = len(self._tokenizer.decode(self._window))
        self._settled = len(self._window)
