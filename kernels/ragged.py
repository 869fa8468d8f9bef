"""Rows of many sequences as kernels see them: tensors of fixed meaning, nothing of Python's.

A sequence's rows lie next to each other: its known tokens, then the nodes of its draft.  Its keys
lie in the blocks of its table, known tokens in the order of their positions, then the nodes of its
draft.  A captured graph keeps these tensors and finds new contents in them at every step; sequences
without rows and rows without a sequence only pad.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

#: Nodes of a draft at most, one bit of a mask each.
MASK_BITS = 64


@dataclass(frozen=True)
class RaggedRows:
    """Which keys every query row sees.

    ``row_starts`` int32 [sequences + 1]: rows ``row_starts[s]`` to ``row_starts[s + 1]`` are those
    of sequence ``s``; rows from ``row_starts[-1]`` on only pad, and their results mean nothing.
    ``draft_starts`` int32 [sequences]: the first of its rows that is a node of its draft, or
    ``row_starts[s + 1]`` without one.
    ``known`` int32 [sequences]: its keys that are in the order of positions, this step's known
    tokens among them; node ``n`` of its draft is key ``known + n``.
    ``positions`` int32 [rows]: of each row in its sequence.  A row of a known token sees the keys
    ``0..position``.
    ``ancestors`` int64 [rows]: of a node's row, bit ``n`` says that it sees node ``n`` (itself
    among them), beside all ``known`` keys; of other rows 0.
    ``block_tables`` int32 [sequences, blocks]: key ``k`` lies in slot
    ``block_tables[s, k // BLOCK_SIZE] * BLOCK_SIZE + k % BLOCK_SIZE``.
    ``longest_query``, ``longest_context``: no sequence has more rows or more keys; these are what
    launches are sized by, so a captured graph holds upper bounds.
    """

    row_starts: torch.Tensor
    draft_starts: torch.Tensor
    known: torch.Tensor
    positions: torch.Tensor
    ancestors: torch.Tensor
    block_tables: torch.Tensor
    longest_query: int
    longest_context: int
