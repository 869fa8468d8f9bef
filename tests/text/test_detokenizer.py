"""Text comes out whole, in order, and never half a character."""

from __future__ import annotations

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from lorax_spec.text.detokenizer import Detokenizer
from lorax_spec.text.tokenizer import TextTokenizer
from tests.text.samples import TOKENIZER, token_of_byte

BYTE_IDS = [token_of_byte(value) for value in range(256)]


def texts(tokenizer: TextTokenizer, ids: list[int], context: tuple[int, ...] = ()) -> list[str]:
    detokenizer = Detokenizer(tokenizer, context)
    parts = [detokenizer.add(token_id) for token_id in ids]
    return [*parts, detokenizer.flush()]


@given(st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=60))
def test_any_tokens_give_the_decoded_whole(ids: list[int]) -> None:
    assert "".join(texts(TOKENIZER, ids)) == TOKENIZER.decode(ids)


@given(st.binary(max_size=40))
def test_any_bytes_give_the_decoded_whole(raw: bytes) -> None:
    ids = [BYTE_IDS[value] for value in raw]
    assert "".join(texts(TOKENIZER, ids)) == raw.decode(errors="replace")


@given(st.text(max_size=40))
def test_a_character_comes_with_the_token_that_completes_it(text: str) -> None:
    ids = [BYTE_IDS[value] for value in text.encode(errors="ignore")]
    expected = []
    for character in text.encode(errors="ignore").decode():
        expected += [""] * (len(character.encode()) - 1) + [character]
    if "\ufffd" not in text:
        assert texts(TOKENIZER, ids) == [*expected, ""]


def test_special_tokens_have_no_text_and_part_nothing() -> None:
    ids = [BYTE_IDS[0xC3], TOKENIZER.encode("<|im_end|>")[0], BYTE_IDS[0xA9]]
    assert texts(TOKENIZER, ids) == ["", "", "é", ""]


def test_a_broken_character_waits_for_the_flush_only_while_it_may_heal() -> None:
    assert texts(TOKENIZER, [BYTE_IDS[0xC3]]) == ["", "\ufffd"]
    broken = texts(TOKENIZER, [BYTE_IDS[0x80]] * 6)
    assert broken[3] != "" and "".join(broken) == "\ufffd" * 6


def sentencepiece() -> TextTokenizer:
    """As Llama 2 decodes: a mark for spaces, byte fallback, the first space stripped."""
    words = ["<unk>", "▁", "▁Hello", "▁world", "!", "<s>"]
    vocab = {word: index for index, word in enumerate(words)}
    vocab |= {f"<0x{value:02X}>": len(words) + value for value in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return TextTokenizer(tokenizer)


@given(data=st.data())
def test_spaces_and_byte_fallback(data: st.DataObject) -> None:
    tokenizer = sentencepiece()
    words = st.sampled_from([[1], [2], [3], [4], [5]])
    characters = st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd").map(
        lambda character: [6 + value for value in character.encode()]
    )
    ids = [*chain.from_iterable(data.draw(st.lists(words | characters, max_size=20)))]
    assert "".join(texts(tokenizer, ids)) == tokenizer.decode(ids)


def test_context_decides_on_the_leading_space() -> None:
    tokenizer = sentencepiece()
    assert texts(tokenizer, [2, 5, 3]) == ["Hello", "", " world", ""]
    assert texts(tokenizer, [3], context=(2, 4)) == [" world", ""]
