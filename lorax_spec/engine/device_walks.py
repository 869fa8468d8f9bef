"""Choosing tokens and walking drafts on the device: one wait for the results of a whole step."""

from __future__ import annotations

from collections.abc import Collection
from collections.abc import Sequence as Rows
from typing import Any

import torch

from lorax_spec.engine.sampling import Chosen
from lorax_spec.engine.sequence import Sequence
from lorax_spec.engine.step_inputs import Shapes, StepInputs
from lorax_spec.engine.verification import Choice, Sampled, finish_reason, walk_drafts
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.kernels.sampling_rows import MAX_EXTRA, SamplingRows
from lorax_spec.kernels.triton.sampling import Workspace, sample, workspace
from lorax_spec.kernels.triton.walk import walk
from lorax_spec.kernels.walk import NONE, DraftRows, allocate
from lorax_spec.speculation.tree import ROOT, DraftTree
from lorax_spec.speculation.verify import Walk


class DeviceWalks:
    """What ``walk_drafts`` does, by two kernels.

    Sequences that follow a grammar, or want to see alternatives, go the host's way.
    """

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        self._vocabulary = vocabulary
        self._device = device
        self._rooms: dict[tuple[int, bool], Workspace] = {}

    def __call__(
        self, rows: Rows[Sampled], logits: torch.Tensor, eos: Collection[int]
    ) -> list[Walk[Choice]]:
        ours = [one for one in rows if _walks_here(one.sequence)]
        others = [one for one in rows if not _walks_here(one.sequence)]
        walks = iter(self._walk(ours, logits, eos) if ours else [])
        rest = iter(walk_drafts(others, logits, eos) if others else [])
        return [next(walks if _walks_here(one.sequence) else rest) for one in rows]

    def _walk(
        self, rows: Rows[Sampled], logits: torch.Tensor, eos: Collection[int]
    ) -> list[Walk[Choice]]:
        count = sum(1 + len(one.scheduled.draft) for one in rows)
        inputs = self._inputs(rows, count, eos)
        penalized = [one.sequence.history for one in rows if one.sequence.history is not None]
        if penalized:
            seen = torch.stack([history.seen for history in penalized])
            counts = torch.stack([history.counts for history in penalized])
        else:
            seen = torch.zeros(1, 1, dtype=torch.bool, device=self._device)
            counts = seen.float()
        sampling = SamplingRows(
            **{name: inputs[name] for name in _SAMPLING},
            seen=seen,
            counts=counts,
            mask=torch.full((count,), NONE, dtype=torch.int32, device=self._device),
            masks=torch.zeros(1, 1, dtype=torch.int32, device=self._device),
        )
        filters = any(one.sequence.rule.filters for one in rows)
        tokens, logprobs = sample(logits, sampling, self._room(count, filters))
        walked = allocate(len(rows), self._device)
        drafts = DraftRows(**{name: inputs[name] for name in _DRAFTS})
        walk(tokens[:count], logprobs[:count], drafts, walked)
        lengths = walked.counts.tolist()
        chosen, scores = walked.tokens.tolist(), walked.logprobs.tolist()
        paths = walked.path.tolist()
        return [
            _told(one.sequence, chosen[i][:length], scores[i], paths[i][: length - 1], eos)
            for i, (one, length) in enumerate(zip(rows, lengths, strict=True))
        ]

    def _room(self, rows: int, filters: bool) -> Workspace:
        """Of a size that comes again."""
        key = 1 << (rows - 1).bit_length(), filters
        if key not in self._rooms:
            self._rooms[key] = workspace(key[0], self._vocabulary, self._device, filters)
        return self._rooms[key]

    def _inputs(self, rows: Rows[Sampled], count: int, eos: Collection[int]) -> StepInputs:
        numbers: dict[str, list[Any]] = {name: [] for name in (*_SAMPLING, *_DRAFTS)}
        numbers["bias_starts"].append(0)
        histories = 0
        for one in rows:
            history = NONE
            if one.sequence.history is not None:
                history, histories = histories, histories + 1
            _add(numbers, one, history)
        numbers["ends"] = sorted(eos) or [NONE]
        blocks = [one.sequence.blocks for one in rows]
        inputs = StepInputs(_shapes(numbers, count, max(map(len, blocks))), self._device)
        for name in (*_SAMPLING, *_DRAFTS):
            if name == "block_tables":
                inputs.fill_rows(name, blocks)
            elif name == "extra_tokens":
                inputs.fill_rows(name, numbers[name])
            else:
                inputs.fill(name, numbers[name])
        inputs.send()
        return inputs


def _walks_here(sequence: Sequence) -> bool:
    return sequence.grammar is None and not sequence.rule.alternatives


def _add(numbers: dict[str, list[Any]], one: Sampled, history: int) -> None:
    """Append a sequence's rows: its root, then the nodes of its draft."""
    sequence, draft, rule = one.sequence, one.scheduled.draft, one.sequence.rule
    known, nodes = len(sequence.tokens), range(ROOT, len(draft))
    numbers["first_rows"].append(len(numbers["source"]))
    numbers["nodes"].append(len(draft))
    numbers["remaining"].append(sequence.limit - known)
    numbers["heeds_end"].append(not sequence.request.parameters.ignore_eos_token)
    numbers["known"].append(known)
    numbers["parents"] += [ROOT, *draft.parents]
    numbers["tokens"] += [0, *draft.tokens]
    bias = sorted((rule.logit_bias or {}).items())
    for node in nodes:
        numbers["source"].append(one.first_row + node - ROOT)
        numbers["positions"].append(known + (draft.depths[node] if node != ROOT else 0))
        prefix = _prefix(draft, node) if history != NONE else []
        numbers["extra_tokens"].append(prefix)
        numbers["extra_counts"].append(len(prefix))
        numbers["bias_tokens"] += [token for token, _ in bias]
        numbers["bias_values"] += [value for _, value in bias]
        numbers["bias_starts"].append(len(numbers["bias_tokens"]))
    alike = {
        "temperature": rule.temperature,
        "top_k": rule.top_k,
        "top_p": rule.top_p,
        "min_p": rule.min_p,
        "typical_p": rule.typical_p,
        "repetition": rule.repetition_penalty,
        "frequency": rule.frequency_penalty,
        "presence": rule.presence_penalty,
        "seeds": rule.seed - (1 << 64) if rule.seed >> 63 else rule.seed,
        "history": history,
    }
    for name, value in alike.items():
        numbers[name] += [value] * len(nodes)


def _prefix(draft: DraftTree, node: int) -> list[int]:
    """Drafted tokens up to a node's own."""
    tokens = []
    while node != ROOT:
        tokens.append(draft.tokens[node])
        node = draft.parents[node]
    return tokens


def _told(
    sequence: Sequence,
    tokens: Rows[int],
    logprobs: Rows[float],
    nodes: Rows[int],
    eos: Collection[int],
) -> Walk[Choice]:
    """A walk as the host tells it; the history hears of it."""
    choices = []
    for length, (token, logprob) in enumerate(zip(tokens, logprobs, strict=False), 1):
        if sequence.history is not None:
            sequence.history.advance(token)
        reason = finish_reason(sequence, token, len(sequence.tokens) + length, eos)
        choices.append(Choice(Chosen(token, logprob), reason))
    return Walk(tuple(choices), tuple(nodes))


#: Tensors of SamplingRows and of DraftRows that are made of numbers.
_SAMPLING = {
    "source": torch.int32,
    "temperature": torch.float32,
    "top_k": torch.int32,
    "top_p": torch.float32,
    "min_p": torch.float32,
    "typical_p": torch.float32,
    "repetition": torch.float32,
    "frequency": torch.float32,
    "presence": torch.float32,
    "seeds": torch.int64,
    "positions": torch.int64,
    "history": torch.int32,
    "extra_tokens": torch.int32,
    "extra_counts": torch.int32,
    "bias_starts": torch.int32,
    "bias_tokens": torch.int32,
    "bias_values": torch.float32,
}
_DRAFTS = {
    "first_rows": torch.int32,
    "nodes": torch.int32,
    "parents": torch.int32,
    "tokens": torch.int64,
    "remaining": torch.int32,
    "heeds_end": torch.int32,
    "ends": torch.int64,
    "known": torch.int32,
    "block_tables": torch.int32,
}


def _shapes(numbers: dict[str, list[Any]], rows: int, blocks: int) -> Shapes:
    # Node keys may lie up to a whole draft behind the last known one.
    width = blocks + -(-MAX_EXTRA // BLOCK_SIZE)
    matrices = {"extra_tokens": (rows, MAX_EXTRA), "block_tables": (len(numbers["nodes"]), width)}
    return {
        name: (dtype, matrices.get(name, (max(1, len(numbers[name])),)))
        for name, dtype in {**_SAMPLING, **_DRAFTS}.items()
    }
