"""Self-distillation: let the model write the text its heads learn to foresee."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lorax_spec.train.acceptance import generate
from lorax_spec.train.data import Document, prompts

PROMPT_LENGTH = 64


def continuations(
    model: Any,
    documents: Sequence[Document],
    *,
    tokens: int,
    new_tokens: int,
    temperature: float,
    batch_size: int,
    seed: int,
    on_tokens: Callable[[int], None],
) -> list[Document]:
    """About ``tokens`` tokens of the model's own answers to the documents' prompts.

    Documents without a prompt are cut into prompts of 64 tokens.  ``on_tokens`` gets the total so
    far.  Prompts are gone through again, with other noise, until there is enough.
    """
    wanted = max(1, tokens // new_tokens)
    pool = prompts(documents, wanted, PROMPT_LENGTH)
    written: list[Document] = []
    total = 0
    batch = 0
    while total < tokens and pool:
        first = (batch * batch_size) % len(pool)
        outputs = generate(
            model,
            pool[first : first + batch_size],
            temperature=temperature,
            new_tokens=new_tokens,
            seed=seed + batch,
            batch_size=batch_size,
        )
        for output in outputs:
            written.append(Document((*output.prompt, *output.tokens), len(output.prompt)))
            total += len(output.tokens)
        batch += 1
        on_tokens(total)
    return written
