"""States of the heads of all adapters at once, by one kernel."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch

from lorax_spec.adapters.weights import MedusaHeads
from lorax_spec.engine.step_inputs import StepInputs
from lorax_spec.kernels.lora_rows import TILE_ROWS, Grouping, group_rows
from lorax_spec.kernels.triton.medusa import MedusaTables, put_head_states


def all_at_once(heads: Rows[MedusaHeads], hidden: Rows[torch.Tensor]) -> list[torch.Tensor]:
    """As ``medusa.one_by_one``; every adapter is a slot of tables made for this step."""
    if not heads:
        return []
    inputs = torch.cat(list(hidden))
    counts = [len(rows) for rows in hidden]
    grouping = group_rows(
        [slot for slot, count in enumerate(counts) for _ in range(count)],
        sum(-(-count // TILE_ROWS) for count in counts),
    )
    tables: dict[str, list[int]] = {
        "weights": [one.weight.data_ptr() for one in heads],
        "biases": [one.bias.data_ptr() for one in heads],
        "head_counts": [one.num_heads for one in heads],
        "layer_counts": [one.num_layers for one in heads],
    }
    wide, narrow = torch.int64, torch.int32
    shapes = {
        name: (wide if name in ("weights", "biases") else narrow, (len(heads),)) for name in tables
    }
    shapes |= {name: (narrow, tuple(tensor.shape)) for name, tensor in vars(grouping).items()}
    sent = StepInputs(shapes, inputs.device)
    for name, values in {**tables, **vars(grouping)}.items():
        sent.fill(name, values)
    sent.send()
    most = max(one.num_heads for one in heads)
    states = inputs.new_zeros(most, *inputs.shape)
    put_head_states(
        states,
        inputs,
        MedusaTables(
            **{name: sent[name] for name in tables},
            most_layers=max(one.num_layers for one in heads),
        ),
        Grouping(**{name: sent[name] for name in vars(grouping)}),
    )
    parts = states.split(counts, 1)
    return [part[: one.num_heads] for part, one in zip(parts, heads, strict=True)]
