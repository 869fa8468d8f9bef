"""Places to choose tokens at, as the engine and as the kernels see them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from lorax_spec.engine.sampling import History, Place, SamplingRule
from lorax_spec.kernels.sampling_rows import SamplingRows
from lorax_spec.kernels.triton import sampling

BLOCK = 32


@dataclass(frozen=True)
class Row:
    """One place and what its tensors hold; ``source`` -1 is a row that is not used."""

    source: int
    position: int
    rule: SamplingRule
    prompt: tuple[int, ...] = ()
    output: tuple[int, ...] = ()
    drafted: tuple[int, ...] = ()
    banned: tuple[int, ...] | None = None

    def place(self, vocabulary: int) -> Place:
        cpu = torch.device("cpu")
        history = History(self.prompt, (*self.output, *self.drafted), vocabulary, cpu)
        banned = None
        if self.banned is not None:
            banned = torch.zeros(vocabulary, dtype=torch.bool)
            banned[list(self.banned)] = True
        return Place(self.source, self.position, self.rule, history, banned)


def rows_of(rows: list[Row], vocabulary: int, device: torch.device) -> SamplingRows:
    """Every used row that penalises has a history slot of its own, every constrained one a mask."""

    def floats(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    def integers(values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int32, device=device)

    rules = [row.rule for row in rows]
    penalised = [row for row in rows if row.rule.penalizes]
    histories = [
        History(row.prompt, row.output, vocabulary, torch.device("cpu")) for row in penalised
    ]
    constrained = [row for row in rows if row.banned is not None]
    words = -(-vocabulary // 32)
    masks = torch.full((len(constrained), words), -1, dtype=torch.int32)
    for mask, row in zip(masks, constrained, strict=True):
        for token in row.banned or ():
            bit = 1 << (token % 32)
            mask[token // 32] &= ~(bit - 2**32 if bit == 2**31 else bit)
    extra = torch.full((len(rows), 64), vocabulary + 7, dtype=torch.int32)
    for one, row in zip(extra, rows, strict=True):
        one[: len(row.drafted)] = integers(list(row.drafted))
    biases = [sorted((rule.logit_bias or {}).items()) for rule in rules]
    starts = [0, *torch.tensor([len(bias) for bias in biases]).cumsum(0).tolist()]
    made = SamplingRows(
        source=integers([row.source for row in rows]),
        temperature=floats([rule.temperature for rule in rules]),
        top_k=integers([rule.top_k for rule in rules]),
        top_p=floats([rule.top_p for rule in rules]),
        min_p=floats([rule.min_p for rule in rules]),
        typical_p=floats([rule.typical_p for rule in rules]),
        repetition=floats([rule.repetition_penalty for rule in rules]),
        frequency=floats([rule.frequency_penalty for rule in rules]),
        presence=floats([rule.presence_penalty for rule in rules]),
        seeds=torch.tensor([(r.seed + 2**63) % 2**64 - 2**63 for r in rules], dtype=torch.int64),
        positions=torch.tensor([row.position for row in rows], dtype=torch.int64),
        history=integers([penalised.index(r) if r in penalised else -1 for r in rows]),
        seen=torch.stack([torch.zeros(vocabulary, dtype=torch.bool), *(h.seen for h in histories)])[
            1:
        ],
        counts=torch.stack([torch.zeros(vocabulary), *(h.counts for h in histories)])[1:],
        extra_tokens=extra,
        extra_counts=integers([len(row.drafted) for row in rows]),
        bias_starts=integers(starts),
        bias_tokens=integers([token for bias in biases for token, _ in bias] or [0]),
        bias_values=floats([value for bias in biases for _, value in bias] or [0.0]),
        mask=integers([constrained.index(r) if r in constrained else -1 for r in rows]),
        masks=masks,
    )
    moved = {f.name: getattr(made, f.name).to(device).contiguous() for f in fields(made)}
    return SamplingRows(**moved)


def sampled(
    logits: torch.Tensor, rows: SamplingRows, filters: bool = True, block: int = BLOCK
) -> tuple[torch.Tensor, torch.Tensor, sampling.Workspace]:
    room = sampling.workspace(len(rows), logits.shape[1], logits.device, filters, block)
    tokens, logprobs = sampling.sample(logits, rows, room)
    return tokens.cpu(), logprobs.cpu(), room


def logits_of(kind: str, count: int, vocabulary: int, seed: int) -> torch.Tensor:
    normal = torch.randn(count, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3
    return {"any": normal, "ties": normal.round(), "flat": normal * 0.0}[kind]
