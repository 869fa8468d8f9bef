"""Prompts of the embedded bundle as token ids, and which answers are worth counting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorax_spec import embedded
from lorax_spec.text.tokenizer import TextTokenizer
from lorax_spec.train.acceptance import loops

#: Answers to these end by themselves; the others are continuations.
_CHAT = {"rename", "edit", "doc", "write"}
ANSWER_TOKENS, _CONTINUATION_TOKENS = 208, 128
#: Shorter answers say nothing about drafting.
_SHORTEST = 8


@dataclass(frozen=True)
class Prompt:
    """``new_tokens`` is the most that is generated; the end token ends it earlier, unless it is
    ignored.  ``temperature``: instead of that of the side that answers."""

    kind: str
    ids: tuple[int, ...]
    new_tokens: int
    ignore_end: bool = False
    temperature: float | None = None


def prompts(kinds: Sequence[str], count: int, tokenizer: TextTokenizer) -> list[Prompt]:
    """``count`` prompts, the kinds in turn, each kind's evenly spread over all it has."""
    texts = embedded.workloads()
    chosen: list[Prompt] = []
    for index in range(count):
        kind = kinds[index % len(kinds)]
        items, wanted = texts[kind], -(-count // len(kinds))
        item = items[index // len(kinds) * len(items) // wanted % len(items)]
        new_tokens = ANSWER_TOKENS if kind in _CHAT else _CONTINUATION_TOKENS
        chosen.append(Prompt(kind, tuple(tokenizer.encode(item["prompt"])), new_tokens))
    return chosen


def worth_counting(tokens: Sequence[int]) -> bool:
    """Whether an output is long enough and does not end in a loop, which any drafter guesses."""
    return len(tokens) >= _SHORTEST and not loops(tokens)
