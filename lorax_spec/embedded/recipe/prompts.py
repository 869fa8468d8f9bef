"""Prompts cut from token arrays: what the recipe lets the model go on with."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tokenizers import Tokenizer

from lorax_spec.embedded.recipe.dataset import Tokens

#: How an answer begins in chat text; a prompt ends with it.
ANSWER = "<|im_start|>assistant\n"
TURN = "<|im_start|>user\n"
PROMPT_TOKENS = 128
LONGEST_PROMPT = 600


def some_prompts(
    tokenizer: Tokenizer,
    texts: Mapping[str, Tokens],
    mix: Mapping[str, float],
    count: int,
    seed: int,
) -> list[list[int]]:
    """About ``count`` prompts from ``texts`` in the shares of ``mix``: chat turns where a text has
    any, else pieces of plain text."""
    turn, answer = (tokenizer.encode(text).ids for text in (TURN, ANSWER))
    generator = np.random.default_rng(seed)
    prompts: list[list[int]] = []
    for name, share in mix.items():
        tokens, wanted = texts[name], max(1, round(count * share))
        found = _turns(tokens.tolist(), turn, answer)
        if not found:
            starts = generator.integers(0, len(tokens) - PROMPT_TOKENS, wanted)
            found = [tokens[start : start + PROMPT_TOKENS].tolist() for start in starts]
        order = generator.permutation(len(found))[:wanted]
        prompts += [found[i] for i in order]
    return prompts


def _turns(tokens: list[int], turn: list[int], answer: list[int]) -> list[list[int]]:
    """From every start of a turn to the start of its answer."""
    found, start = [], None
    for end in range(len(answer), len(tokens) + 1):
        if tokens[end - len(turn) : end] == turn:
            start = end - len(turn)
        if tokens[end - len(answer) : end] == answer and start is not None:
            if end - start <= LONGEST_PROMPT:
                found.append(tokens[start:end])
            start = None
    return found
