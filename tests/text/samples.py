"""The embedded model's tokenizer, from the package or from where its training left it."""

from __future__ import annotations

from pathlib import Path

from lorax_spec.text.tokenizer import TextTokenizer

ROOT = Path(__file__).parents[2]
FOLDER = next(
    folder
    for folder in (ROOT / "lorax_spec/embedded/base", ROOT / "build/embedded/base")
    if (folder / "tokenizer.json").exists()
)
TOKENIZER = TextTokenizer.load(FOLDER)


def token_of_byte(value: int) -> int:
    """The id of the token that is this one byte (byte-level BPE has all 256)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    name = chr(value) if value in printable else chr(256 + others.index(value))
    token_id: int = TOKENIZER._tokenizer.token_to_id(name)
    return token_id
