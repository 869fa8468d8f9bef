"""Medusa heads of many adapters in one launch; twin of lorax_spec.kernels.medusa_rows.

Semantics of head ``k`` with ``L`` residual layers (Cai et al. 2024, arXiv 2401.10774)::

    h_0 = hidden;   h_{l+1} = h_l + SiLU(W[k, l] @ h_l + b[k, l])

A layer is computed in float32 and rounded once, at its end.  A row's states depend on nothing but
its hidden state and its adapter: the sizes of blocks are constants, and every sum is formed in the
order of the input features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from lorax_spec.kernels.lora_rows import TILE_ROWS, Grouping
from lorax_spec.kernels.triton.pointers import elements
from lorax_spec.kernels.triton.variant import ELEMENTS, INTERPRETED, POINTERS, Variant

#: Output features of a program: few, so that even one head of 4096 gives every processor a share
#: of its weights, which is all that a draft's few rows cost.
OUT_BLOCK = 32
IN_BLOCK = 128


@dataclass(frozen=True)
class MedusaTables:
    """The heads of every slot; all on the device.

    ``weights``, ``biases`` int64 [slots]: addresses of [heads, layers, hidden_size, hidden_size]
    and [heads, layers, hidden_size], made by ``pointers.addresses``.
    ``head_counts``, ``layer_counts`` int32 [slots]; an empty slot has no heads.
    ``most_layers``: no layer count is above it; a captured graph holds it.
    """

    weights: torch.Tensor
    biases: torch.Tensor
    head_counts: torch.Tensor
    layer_counts: torch.Tensor
    most_layers: int


@triton.jit
def medusa_layer(states, inputs, weights, biases, head_counts, layer_counts,
                 order, tile_slots, tile_starts, tile_counts,
                 layer, hidden_size, states_head, states_row, inputs_head, inputs_row,
                 ELEMENT: tl.constexpr, WIDEN: tl.constexpr, TILE: tl.constexpr,
                 OUT_BLOCK: tl.constexpr, IN_BLOCK: tl.constexpr):  # fmt: skip
    """Programs (tiles, heads, blocks of output features).

    Tiles come first, so that those of one adapter read the same weights at the same time.
    """
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    slot = tl.load(tile_slots + tile)
    if slot < 0:
        return
    if head >= tl.load(head_counts + slot):
        return
    own = tl.arange(0, TILE)
    kept = own < tl.load(tile_counts + tile)
    row = tl.load(order + tl.load(tile_starts + tile) + own, mask=kept, other=0).to(tl.int64)
    out = tl.program_id(2) * OUT_BLOCK + tl.arange(0, OUT_BLOCK)
    put = out < hidden_size
    base = inputs + head * inputs_head + row[:, None] * inputs_row
    result = tl.load(base + out[None, :], mask=kept[:, None] & put[None, :], other=0.0)
    layers = tl.load(layer_counts + slot)
    # Adapters of fewer layers hand on what they have.
    if layer < layers:
        place = head * layers + layer
        weight = elements(tl.load(weights + slot), ELEMENT) + place * hidden_size * hidden_size
        bias = elements(tl.load(biases + slot), ELEMENT) + place * hidden_size
        sums = tl.zeros((TILE, OUT_BLOCK), tl.float32)
        for start in range(0, hidden_size, IN_BLOCK):
            column = start + tl.arange(0, IN_BLOCK)
            inside = column < hidden_size
            x = tl.load(base + column[None, :], mask=kept[:, None] & inside[None, :],
                        other=0.0)  # fmt: skip
            w = tl.load(weight + out[None, :].to(tl.int64) * hidden_size + column[:, None],
                        mask=put[None, :] & inside[:, None], other=0.0)  # fmt: skip
            if WIDEN:
                x, w = x.to(tl.float32), w.to(tl.float32)
            sums = tl.dot(x, w, sums, input_precision="ieee")
        sums += tl.load(bias + out, mask=put, other=0.0).to(tl.float32)[None, :]
        result = (result.to(tl.float32) + sums * tl.sigmoid(sums)).to(ELEMENT)
    target = states + head * states_head + row[:, None] * states_row + out[None, :]
    tl.store(target, result, mask=kept[:, None] & put[None, :])


def put_head_states(
    states: torch.Tensor, hidden: torch.Tensor, tables: MedusaTables, grouping: Grouping
) -> None:
    """Write the states of all heads of all adapters into ``states``; one launch per layer.

    Rows of no tile, and heads that a row's adapter does not have, are left as they are.

    Args:
        states: [most heads, rows, hidden_size], of hidden's dtype.
        hidden: [rows, hidden_size], the last hidden state after the final norm; the weights are of
            its dtype.
    """
    heads, _, hidden_size = states.shape
    if hidden.stride(1) != 1 or states.stride(2) != 1:
        raise ValueError("features do not lie side by side")
    grid = (len(grouping.tile_slots), heads, triton.cdiv(hidden_size, OUT_BLOCK))
    # Without layers there is still one launch, which copies.
    launches = max(1, tables.most_layers)
    other = torch.empty_like(states) if launches > 1 else states
    inputs = hidden.expand(heads, *hidden.shape)
    for layer in range(launches):
        outputs = states if (launches - layer) % 2 else other
        medusa_layer[grid](
            outputs, inputs, tables.weights, tables.biases, tables.head_counts,
            tables.layer_counts, grouping.order, grouping.tile_slots, grouping.tile_starts,
            grouping.tile_counts, layer, hidden_size, *outputs.stride()[:2], *inputs.stride()[:2],
            **_constants(hidden.dtype), num_warps=4, num_stages=4,
        )  # fmt: skip
        inputs = outputs


def _constants(dtype: torch.dtype) -> dict[str, object]:
    return {
        "ELEMENT": ELEMENTS[dtype],
        "WIDEN": INTERPRETED,
        "TILE": TILE_ROWS,
        "OUT_BLOCK": OUT_BLOCK,
        "IN_BLOCK": IN_BLOCK,
    }


def variants() -> Iterator[Variant]:
    """The first layer's, and another as a launch specialises the second's index."""
    group = dict.fromkeys(("order", "tile_slots", "tile_starts", "tile_counts"), "*i32")
    sizes = ("layer", "hidden_size", "states_head", "states_row", "inputs_head", "inputs_row")
    for dtype in ELEMENTS:
        pointer = POINTERS[dtype]
        signature = {
            "states": pointer, "inputs": pointer, "weights": "*i64", "biases": "*i64",
            "head_counts": "*i32", "layer_counts": "*i32", **group, **dict.fromkeys(sizes, "i32"),
        }  # fmt: skip
        constants = _constants(dtype) | {"WIDEN": False}
        yield Variant(pointer[1:], medusa_layer, signature, constants, num_stages=4)
        second = constants | {"layer": 1}
        yield Variant(f"{pointer[1:]} second", medusa_layer, signature, second, num_stages=4)
