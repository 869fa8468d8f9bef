"""``lorax-spec adapters inspect``: looking at a folder and saying what was seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from lorax_spec.adapters.inspect import Inspection

_SHOWN_FAULTS = 12


def look_at(
    folder: Path, model_id: str | None, revision: str | None, dtype: str | None
) -> Inspection:
    """``dtype`` is a name; without, the model's own counts, or float32."""
    import torch

    from lorax_spec.adapters.inspect import inspect

    chosen = getattr(torch, dtype) if dtype else torch.float32
    if model_id is None:
        return inspect(folder, dtype=chosen)
    from lorax_spec.engine.outline import outline

    try:
        shape, own = outline(model_id, revision)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--model-id") from None
    return inspect(folder, shape, chosen if dtype else own)


def show(found: Inspection, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    for label, text in _lines(found):
        print(f"{label:<13}{text}")


def _lines(found: Inspection) -> Iterator[tuple[str, str]]:
    yield "kind", found.kind or "none"
    yield "base model", found.base_model or "not said"
    if found.lora is not None:
        forms = {"rsLoRA": found.lora.rslora, "DoRA": found.lora.dora}
        yield (
            "LoRA",
            ", ".join(
                [
                    f"{found.lora.modules} modules",
                    "rank " + "/".join(map(str, found.lora.ranks or (found.rank,))),
                    "scale " + "/".join(f"{scale:g}" for scale in found.lora.scales),
                    *(form for form, there in forms.items() if there),
                ]
            ),
        )
        yield "targets", ", ".join(found.lora.targets) or "none"
        if found.lora.whole:
            yield "replaced", ", ".join(found.lora.whole)
        if found.lora.biases:
            yield "biases", f"{found.lora.biases} trained"
    if found.medusa_heads:
        heads = f"v{found.medusa_version}, {found.medusa_heads} heads"
        yield "Medusa", f"{heads} of {found.medusa_layers} layers"
    if found.hydra_heads:
        yield "Hydra", f"{found.hydra_heads} heads of inner size {found.hydra_inner_size}"
    if found.calibrated:
        yield "calibration", "yes"
    if found.choices:
        yield "static tree", f"{found.choices} nodes"
    if found.chat_template:
        yield "template", "a chat template"
    if found.added_tokens:
        yield "added tokens", str(found.added_tokens)
    yield "size", f"{found.bytes / 2**20:.2f} MiB in {', '.join(found.files) or 'no file'}"
    if found.device_bytes:
        yield "on device", f"{found.device_bytes / 2**20:.2f} MiB in {found.dtype}"
    if found.model_id and not found.faults:
        yield "fits", found.model_id
    for fault in found.faults[:_SHOWN_FAULTS]:
        yield "fault", fault
    if (rest := len(found.faults) - _SHOWN_FAULTS) > 0:
        yield "", f"and {rest} more; --json shows all"
