"""Walking draft trees with the tokens chosen at their nodes, on tensors.

A sequence has one row at its root (its last known token) and one for each node of its draft, next
to each other.  From the root on, the token chosen at a row is the sequence's next one; if a child
of that node guessed it and something may follow it, the walk goes on at the child.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lorax_spec.kernels.kv_cache import BLOCK_SIZE

#: Nodes of a draft at most; a walk chooses up to one token more.
MAX_NODES = 64
ROOT = -1
#: What stands where there is no node, token or slot.
NONE = -1


@dataclass(frozen=True)
class DraftRows:
    """Drafts of a batch; a captured graph finds new contents in the same tensors.

    ``first_rows`` int32 [sequences]: the root's row, or -1 where a sequence is not used; node n has
    row ``first_rows[s] + 1 + n``.  ``nodes`` int32 [sequences]: how many there are, 0 to 64.
    ``parents`` int32 [rows]: of a node's row its parent's number in the draft, or -1 for the root;
    ``tokens`` int64 [rows]: what the node guesses.  Parents come first and siblings differ.  What
    the roots' rows hold means nothing.
    ``remaining`` int32 [sequences]: how many tokens may still be chosen, at least 1.
    ``heeds_end`` int32 [sequences]: 1 where nothing may follow a token of ``ends`` int64 [any],
    which -1 pads.
    ``known`` int32 [sequences]: tokens before the draft, the root among them; node n's key is key
    ``known + n`` in ``block_tables`` int32 [sequences, blocks].
    """

    first_rows: torch.Tensor
    nodes: torch.Tensor
    parents: torch.Tensor
    tokens: torch.Tensor
    remaining: torch.Tensor
    heeds_end: torch.Tensor
    ends: torch.Tensor
    known: torch.Tensor
    block_tables: torch.Tensor

    def __len__(self) -> int:
        return self.first_rows.shape[0]


@dataclass(frozen=True)
class Walked:
    """What walks chose; unused sequences have a count of 0 and nothing else.

    ``counts`` int32 [sequences]: tokens chosen, one more than nodes gone through.
    ``tokens`` int64 and ``logprobs`` float32 [sequences, 65]; -1 and 0 pad.
    ``path`` int32 [sequences, 64]: the nodes gone through; -1 pads.
    ``source``, ``target`` int64 [sequences, 64]: slots of those nodes' keys and where their
    positions belong; -1 where a key is in its place already or there is none.
    """

    counts: torch.Tensor
    tokens: torch.Tensor
    logprobs: torch.Tensor
    path: torch.Tensor
    source: torch.Tensor
    target: torch.Tensor


def allocate(sequences: int, device: torch.device) -> Walked:
    """Room for the walks of up to ``sequences`` sequences."""

    def full(width: int, value: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.full((sequences, width), value, dtype=dtype, device=device)

    return Walked(
        counts=full(1, 0, torch.int32)[:, 0],
        tokens=full(MAX_NODES + 1, NONE, torch.int64),
        logprobs=full(MAX_NODES + 1, 0, torch.float32),
        path=full(MAX_NODES, NONE, torch.int32),
        source=full(MAX_NODES, NONE, torch.int64),
        target=full(MAX_NODES, NONE, torch.int64),
    )


def walk(chosen: torch.Tensor, logprobs: torch.Tensor, drafts: DraftRows) -> Walked:
    """``chosen`` int64 [rows] and ``logprobs`` float32 [rows]: each row's token."""
    walked = allocate(len(drafts), chosen.device)
    ends = set(drafts.ends.tolist())
    for sequence, first in enumerate(drafts.first_rows.tolist()):
        if first < 0:
            continue
        nodes, remaining = int(drafts.nodes[sequence]), int(drafts.remaining[sequence])
        known, blocks = int(drafts.known[sequence]), drafts.block_tables[sequence].tolist()
        own = slice(first + 1, first + 1 + nodes)
        guesses = zip(drafts.parents[own].tolist(), drafts.tokens[own].tolist(), strict=True)
        children = {guess: node for node, guess in enumerate(guesses)}
        node: int | None = ROOT
        depth = 0
        while node is not None:
            row = first + 1 + node
            token = int(chosen[row])
            walked.tokens[sequence, depth] = token
            walked.logprobs[sequence, depth] = logprobs[row]
            if depth > 0:
                walked.path[sequence, depth - 1] = node
                if node != depth - 1:
                    walked.source[sequence, depth - 1] = _slot(blocks, known + node)
                    walked.target[sequence, depth - 1] = _slot(blocks, known + depth - 1)
            depth += 1
            ended = bool(drafts.heeds_end[sequence]) and token in ends
            node = None if ended or depth >= remaining else children.get((node, token))
        walked.counts[sequence] = depth
    return walked


def _slot(blocks: list[int], key: int) -> int:
    return blocks[key // BLOCK_SIZE] * BLOCK_SIZE + key % BLOCK_SIZE
