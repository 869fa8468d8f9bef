"""What a grammar must know of a model's tokens: the bytes each stands for, and which end a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import xgrammar
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from lorax_spec.errors import Unimplemented


@dataclass(frozen=True)
class Vocabulary:
    """``size`` counts the columns of the model's logits; ``mute`` tokens stand for no text.

    ``pieces`` are the bytes of each token, ``letters`` the tokens of single bytes.
    """

    info: xgrammar.TokenizerInfo
    tokenizer: Tokenizer
    size: int
    eos: frozenset[int]
    mute: frozenset[int]
    pieces: tuple[bytes, ...]
    letters: Mapping[bytes, int]


def read_vocabulary(folder: Path, size: int, eos: frozenset[int]) -> Vocabulary:
    """From a model folder's tokenizer.json.

    Special tokens are mute: they are markup, which a text never shows, though a grammar that
    permits any character would let their spelling pass.

    Raises:
        Unimplemented: the model has no tokenizer.json, or no token that ends a text.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise Unimplemented("this model has no tokenizer.json, which `response_format` needs")
    if not eos:
        raise Unimplemented("this model has no token to end a text, which `response_format` needs")
    tokenizer = Tokenizer.from_file(str(path))
    as_written = xgrammar.TokenizerInfo.from_huggingface(
        PreTrainedTokenizerFast(tokenizer_object=tokenizer),
        vocab_size=size,
        stop_token_ids=sorted(eos),
    )
    pieces = as_written.decoded_vocab
    for token_id, token in tokenizer.get_added_tokens_decoder().items():
        if token.special and token_id < size:
            pieces[token_id] = b""
    info = xgrammar.TokenizerInfo(
        pieces,
        xgrammar.VocabType.RAW,
        vocab_size=size,
        stop_token_ids=sorted(eos),
        add_prefix_space=as_written.add_prefix_space,
    )
    mute = frozenset(i for i, piece in enumerate(pieces) if not piece) - eos
    letters = {piece: i for i, piece in enumerate(pieces) if len(piece) == 1}
    return Vocabulary(info, tokenizer, size, eos, mute, tuple(pieces), letters)
