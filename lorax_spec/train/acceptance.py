"""How many drafted tokens a verification step would accept, on the model's own outputs.

The outputs are generated once; heads then draft along them, teacher-forced, as an engine would:
from the last accepted position, a chain or a best-first tree; what the output confirms is
accepted, and the step after it begins behind the token the base itself adds.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lorax_spec.train.heads import MedusaHeads
from lorax_spec.train.loop import last_hidden

#: Candidates per head that a tree chooses from.
WIDTH = 8
#: Shapes that are reported: nodes of a best-first tree, 0 for the plain chain.
SHAPES = {"chain": 0, "tree 8": 8, "tree 16": 16}
LONGEST_PERIOD = 24


@dataclass(frozen=True)
class Output:
    """A prompt and what the model itself went on with, both token ids."""

    prompt: list[int]
    tokens: list[int]


@dataclass(frozen=True)
class Guesses:
    """What each head guesses at each place of an output: ids and probabilities,
    [places][heads][WIDTH], likeliest first."""

    ids: list[list[list[int]]]
    probabilities: list[list[list[float]]]


@dataclass(frozen=True)
class Acceptance:
    """Accepted drafts per step by shape (tokens per forward: one more), over ``outputs``
    outputs; ``looping`` more were left out."""

    per_step: dict[str, float]
    outputs: int
    looping: int


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[list[int]],
    *,
    temperature: float,
    new_tokens: int,
    seed: int = 0,
    batch_size: int = 16,
) -> list[Output]:
    """The model's own continuations, greedy at temperature 0; they end with an end token."""
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    pad = model.generation_config.pad_token_id or 0
    outputs: list[Output] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for first in range(0, len(prompts), batch_size):
            batch = prompts[first : first + batch_size]
            width = max(map(len, batch))
            ids = torch.tensor([[pad] * (width - len(p)) + p for p in batch])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
            options = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
            result = model.generate(
                ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=new_tokens,
                do_sample=temperature > 0,
                pad_token_id=pad,
                **options,
            )
            for prompt, row in zip(batch, result[:, width:].tolist(), strict=True):
                end = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
                outputs.append(Output(prompt, row[:end]))
    return outputs


@torch.no_grad()
def guess(model: Any, heads: MedusaHeads, output: Output) -> Guesses:
    """Run the heads at every place of an output; place i is where the base gives token i."""
    sequence = torch.tensor([output.prompt + output.tokens[:-1]])
    rows = last_hidden(model, sequence)[0, len(output.prompt) - 1 :]
    lm_head = model.get_output_embeddings()
    tops = [
        heads.logits(k, rows, lm_head).float().softmax(-1).topk(WIDTH) for k in range(len(heads))
    ]
    return Guesses(
        torch.stack([top.indices for top in tops], 1).tolist(),
        torch.stack([top.values for top in tops], 1).tolist(),
    )


def draft(guesses: Guesses, place: int, nodes: int) -> set[tuple[int, ...]]:
    """Paths of drafted ids: the chain of first guesses, or the best tree of ``nodes`` nodes."""
    ids, probabilities = guesses.ids[place], guesses.probabilities[place]
    if nodes == 0:
        chain = [head[0] for head in ids]
        return {tuple(chain[:depth]) for depth in range(1, len(chain) + 1)}
    queue: list[tuple[float, tuple[int, ...]]] = [(-1.0, ())]
    chosen: set[tuple[int, ...]] = set()
    while queue and len(chosen) <= nodes:
        score, path = heapq.heappop(queue)
        chosen.add(path)
        if len(path) < len(ids):
            for token, p in zip(ids[len(path)], probabilities[len(path)], strict=True):
                heapq.heappush(queue, (score * p, (*path, token)))
    return chosen - {()}


def accepted_and_steps(guesses: Guesses, tokens: Sequence[int], nodes: int) -> tuple[int, int]:
    """(accepted drafts, verification steps) along one output."""
    accepted = steps = place = 0
    while place < len(tokens) - 1:
        paths = draft(guesses, place, nodes)
        length = 0
        while place + 1 + length < len(tokens) and (
            tuple(tokens[place + 1 : place + 2 + length]) in paths
        ):
            length += 1
        accepted, steps, place = accepted + length, steps + 1, place + length + 1
    return accepted, steps


def loops(tokens: Sequence[int]) -> bool:
    """Whether a period of at most 24 explains nine tenths of the last tokens: worthless text,
    on which any drafter looks excellent."""
    for period in range(1, LONGEST_PERIOD + 1):
        span = max(2 * period, LONGEST_PERIOD)
        if len(tokens) >= span + period:
            same = sum(tokens[-1 - j] == tokens[-1 - j - period] for j in range(span))
            if same >= 0.9 * span:
                return True
    return False


def acceptance(model: Any, heads: MedusaHeads, outputs: Sequence[Output]) -> Acceptance:
    """Accepted drafts per step over the outputs that do not loop and have 8 tokens or more."""
    long_enough = [output for output in outputs if len(output.tokens) >= 8]
    good = [output for output in long_enough if not loops(output.tokens)]
    totals = {shape: [0, 0] for shape in SHAPES}
    for output in good:
        guesses = guess(model, heads, output)
        for shape, nodes in SHAPES.items():
            accepted, steps = accepted_and_steps(guesses, output.tokens, nodes)
            totals[shape][0] += accepted
            totals[shape][1] += steps
    per_step = {shape: a / max(1, s) for shape, (a, s) in totals.items()}
    return Acceptance(per_step, len(good), len(long_enough) - len(good))
