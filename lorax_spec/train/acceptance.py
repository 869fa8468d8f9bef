"""How many drafted tokens a verification step would accept, on the model's own outputs.

The outputs are generated once; heads then draft along them, teacher-forced, as an engine would:
from the last accepted position, a chain or a best-first tree; what the output confirms is
accepted, and the step after it begins behind the token the base itself adds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from lorax_spec.kernels.noise import gumbel
from lorax_spec.train.loop import Guesser, embeddings, last_hidden

#: Candidates per head that a tree chooses from.
WIDTH = 8
#: Shapes that are reported: nodes of a best-first tree, 0 for the plain chain.
SHAPES = {"chain": 0, "tree 8": 8, "tree 16": 16}
LONGEST_PERIOD = 24


@dataclass(frozen=True)
class Output:
    """A prompt and what the model itself went on with, both token ids.

    A sampled token is the argmax of ``logits / temperature`` plus the Gumbel noise of its place
    in the sequence under ``seed``, as in the engine.
    """

    prompt: list[int]
    tokens: list[int]
    seed: int = 0


#: A set of root-to-node paths of drafted ids: a draft tree.
Paths = set[tuple[int, ...]]


class Ranking(Protocol):
    """How a head's guesses are chosen and what they are thought worth."""

    def __call__(
        self, head: int, logits: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and probabilities [n, width], best first, from a head's logits [n, vocab]; the
        guessed tokens are those at ``places`` [n] of the output."""
        ...


def plainly(
    head: int, logits: torch.Tensor, places: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """By what the head itself thinks."""
    top = logits.float().softmax(-1).topk(min(WIDTH, logits.shape[-1]))
    return top.indices, top.values


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
    """The model's own continuations, greedy at temperature 0; they end with an end token.

    Prompt ``i`` has the seed ``seed * 2**32 + i``.
    """
    ends = model.generation_config.eos_token_id
    ends = {ends} if isinstance(ends, int) else set(ends or ())
    pad = model.generation_config.pad_token_id or 0
    outputs: list[Output] = []
    for first in range(0, len(prompts), batch_size):
        batch = prompts[first : first + batch_size]
        seeds = [(seed << 32) + first + i for i in range(len(batch))]
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in batch])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
        # Greedy search over noisy scores is sampling with that noise.
        noise = [_NoisyScores(temperature, seeds, [width - len(p) for p in batch])]
        result = model.generate(
            ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=pad,
            logits_processor=noise if temperature else [],
        )
        for prompt, its_seed, row in zip(batch, seeds, result[:, width:].tolist(), strict=True):
            end = next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
            outputs.append(Output(prompt, row[:end], its_seed))
    return outputs


@dataclass(frozen=True)
class _NoisyScores:
    """A logits processor of transformers; row ``i`` has ``pads[i]`` tokens before its prompt."""

    temperature: float
    seeds: list[int]
    pads: list[int]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        positions = [input_ids.shape[1] - pad for pad in self.pads]
        noise = gumbel(self.seeds, positions, scores.shape[1], scores.device)
        return scores.float() / self.temperature + noise


@torch.no_grad()
def drafts(
    model: Any, heads: Guesser, output: Output, nodes: int, rank: Ranking = plainly
) -> list[Paths]:
    """What the heads would draft at every place of an output, [places]; at place i the base gives
    token i, and the draft is for the tokens after it.

    The tree of the ``nodes`` nodes whose paths have the greatest product of probabilities, or,
    for no nodes, the chain of first guesses.
    """
    sequence = torch.tensor([output.prompt + output.tokens[:-1]], device=model.device)
    rows = last_hidden(model, sequence)[0, len(output.prompt) - 1 :]
    lm_head, count = model.get_output_embeddings(), len(rows)
    places = torch.arange(count, device=rows.device)
    # Paths [places, kept, depth], the token the base gives first; reach: how likely they are.
    paths = torch.tensor(output.tokens, device=rows.device)[:, None, None]
    reach = torch.ones(count, 1, device=rows.device)
    levels: list[tuple[torch.Tensor, torch.Tensor]] = []
    for head in range(len(heads)):
        kept = paths.shape[1]
        own = kept if heads.reads_tokens else 1
        embedded = embeddings(model, paths.flatten(0, 1)) if heads.reads_tokens else None
        logits = heads.logits(head, rows.repeat_interleave(own, 0), lm_head, embedded)
        ids, worth = rank(head, logits, places.repeat_interleave(own) + 1 + head)
        width = ids.shape[1]
        ids = ids.view(count, own, width).expand(count, kept, width)
        reach = (reach[..., None] * worth.view(count, own, width)).flatten(1)
        paths = torch.cat(
            [paths[:, :, None].expand(-1, -1, width, -1), ids[..., None]], dim=-1
        ).flatten(1, 2)
        best = reach.sort(dim=1, descending=True, stable=True).indices[:, : max(nodes, 1)]
        reach = reach.gather(1, best)
        paths = paths.gather(1, best[..., None].expand(-1, -1, paths.shape[2]))
        levels.append((paths, reach))
    return _likeliest(levels, nodes or len(heads))


def _likeliest(levels: list[tuple[torch.Tensor, torch.Tensor]], nodes: int) -> list[Paths]:
    """The ``nodes`` likeliest paths of all lengths, at every place."""
    reach = torch.cat([reach for _, reach in levels], dim=1)
    flat = [
        [path for level in paths for path in level]
        for paths in zip(*(paths[:, :, 1:].tolist() for paths, _ in levels), strict=True)
    ]
    # A node is never likelier than its parent; among equals the shorter path comes first.
    order = reach.sort(dim=1, descending=True, stable=True).indices[:, :nodes].tolist()
    return [{tuple(some[i]) for i in chosen} for some, chosen in zip(flat, order, strict=True)]


def accepted_and_steps(drafted: Sequence[Paths], tokens: Sequence[int]) -> tuple[int, int]:
    """(accepted drafts, verification steps) along one output with a draft for every place."""
    accepted = steps = place = 0
    while place < len(tokens) - 1:
        length = 0
        while place + 1 + length < len(tokens) and (
            tuple(tokens[place + 1 : place + 2 + length]) in drafted[place]
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


def worthwhile(outputs: Sequence[Output]) -> tuple[list[Output], int]:
    """The outputs of 8 tokens or more that do not loop, and how many more do."""
    long_enough = [output for output in outputs if len(output.tokens) >= 8]
    good = [output for output in long_enough if not loops(output.tokens)]
    return good, len(long_enough) - len(good)


def acceptance(
    model: Any,
    heads: Guesser,
    outputs: Sequence[Output],
    rank: Callable[[Output], Ranking] = lambda output: plainly,
) -> Acceptance:
    """Accepted drafts per step over the worthwhile outputs."""
    good, looping = worthwhile(outputs)
    totals = {shape: [0, 0] for shape in SHAPES}
    for output in good:
        for shape, nodes in SHAPES.items():
            drafted = drafts(model, heads, output, nodes, rank(output))
            accepted, steps = accepted_and_steps(drafted, output.tokens)
            totals[shape][0] += accepted
            totals[shape][1] += steps
    per_step = {shape: a / max(1, s) for shape, (a, s) in totals.items()}
    return Acceptance(per_step, len(good), looping)
