"""Quantised models, by transformers' own quantisers.

A model is quantised while it is read (``--quantize``), or lies quantised in its folder (GPTQ, AWQ,
compressed-tensors, ...); then its config.json says so and nothing else needs to.  Linear layers are
quantised; the embeddings, norms and the output embedding, which Medusa heads read through, are not,
unless a folder's are.  What goes between layers has the model's dtype.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lorax_spec.adapters.linears import is_quantized_linear
from lorax_spec.engine.watched import alike, random_rows
from lorax_spec.errors import InvalidArgument

#: So many times as large as the others is the row that must not change them.
_LARGE = 1000


@dataclass(frozen=True)
class Method:
    """``config``, of the model's dtype, is what ``from_pretrained`` takes.  ``dtype``: the only one
    that it computes in; ``capability``: what a CUDA device needs, where no other device will do."""

    package: str
    config: Callable[[torch.dtype], Any]
    dtype: torch.dtype | None = None
    capability: tuple[int, int] | None = None


def quantization_config(name: str, dtype: torch.dtype, device: torch.device) -> Any:
    """What transformers' ``from_pretrained`` takes as such.

    Raises:
        InvalidArgument: there is no such method, or not here.
    """
    method = _method(name)
    for package in ("accelerate", method.package):
        if find_spec(package) is None:
            raise _refused(f"{name} needs {package}: pip install 'lorax-spec[quantize]'")
    if method.capability is not None:
        if device.type != "cuda":
            raise _refused(f"{name} needs a CUDA device, and this is {device}")
        if torch.cuda.get_device_capability(device) < method.capability:
            least = ".".join(map(str, method.capability))
            raise _refused(f"{name} needs a CUDA device of compute capability {least} or later")
    if method.dtype not in (None, dtype):
        raise _refused(f"{name} computes in {_name(method.dtype)}, not in {_name(dtype)}")
    return method.config(dtype)


def checkpoint_method(path: Path) -> str | None:
    """How the model of a folder is quantised already."""
    file = path / "config.json"
    found = json.loads(file.read_text()).get("quantization_config") if file.is_file() else None
    return None if found is None else str(found.get("quant_method", ""))


def is_quantized(model: PreTrainedModel) -> bool:
    return any(is_quantized_linear(module) for module in model.modules())


def read_quantized(
    path: Path,
    name: str | None,
    dtype: torch.dtype | None,
    usual_dtype: Callable[[PreTrainedModel], torch.dtype],
    device: torch.device,
) -> PreTrainedModel:
    """The model of a folder on ``device``, quantised by method ``name`` or as it lies there.

    ``dtype``: of all that is not quantised; None: ``usual_dtype`` of the model, of which only the
    outline is there, unless the method computes in one only.

    Raises:
        InvalidArgument: the method cannot be met here or by this model.
    """
    options: dict[str, Any] = {}
    own = checkpoint_method(path)
    if own is not None and name not in (None, own):
        raise _refused(f"the weights of {path} are quantised already, by {own}: leave it out")
    if dtype is None and own is None:
        dtype = _method(str(name)).dtype
    if dtype is None:
        with torch.device("meta"):
            dtype = usual_dtype(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path)))
    if own is None:
        options["quantization_config"] = quantization_config(str(name), dtype, device)
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, device_map={"": device}, **options
        )
    except ImportError as error:
        raise _refused(f"{name or own}: {error}") from error
    _keep_rows_apart(model)
    return model.eval()


def _keep_rows_apart(model: PreTrainedModel) -> None:
    """No row may change what another gets: they are of different requests.

    LLM.int8 (Dettmers et al. 2022, arXiv 2208.07339) computes columns in 16 bit for all rows where
    any row has a large number there: this is turned off.  A model that scales activations by the
    largest number of the whole batch is refused.
    """
    tried: set[tuple[object, ...]] = set()
    x = torch.empty(0, dtype=model.dtype, device=model.device)
    for path, layer in model.named_modules():
        if not is_quantized_linear(layer):
            continue
        state: Any = getattr(layer, "state", None)
        if hasattr(state, "threshold"):
            state.threshold = 0.0
            # It warns in every product that it rounds to float16 before it rounds to int8.
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        key = (type(layer), layer.in_features, layer.out_features)
        if key not in tried and not _apart(layer, random_rows(x, int(layer.in_features))):
            raise InvalidArgument(
                f"{path} is quantised in a way that lets one request change another: activations"
                " are scaled by the largest number of a batch; it is not served",
                field="model_id",
            )
        tried.add(key)


@torch.inference_mode()
def _apart(layer: Any, x: torch.Tensor) -> bool:
    beside = x.clone()
    beside[-1] *= _LARGE
    return alike(layer(beside)[:-1], layer(x)[:-1])


def _method(name: str) -> Method:
    methods = {
        "bitsandbytes": Method("bitsandbytes", _eight_bit),
        "bitsandbytes-nf4": Method("bitsandbytes", lambda dtype: _four_bit("nf4", dtype)),
        "bitsandbytes-fp4": Method("bitsandbytes", lambda dtype: _four_bit("fp4", dtype)),
        "int8": Method("torchao", _int8),
        "int4": Method("torchao", _int4, torch.bfloat16, (8, 0)),
        "fp8": Method("torchao", _fp8, torch.bfloat16, (8, 9)),
    }
    if name not in methods:
        raise _refused(f"{name!r} is none of {', '.join(methods)}")
    return methods[name]


def _eight_bit(dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True)


def _four_bit(kind: str, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=dtype
    )


def _int8(dtype: torch.dtype) -> Any:
    """Rows of weights by a scale of their own; products in ``dtype``."""
    from torchao.quantization import Int8WeightOnlyConfig

    return _torchao(Int8WeightOnlyConfig(set_inductor_config=False))


def _int4(dtype: torch.dtype) -> Any:
    """Groups of 128 weights; layers whose inputs are no multiple of that stay as they are."""
    from torchao.quantization import Int4WeightOnlyConfig
    from torchao.quantization.quantize_.workflows import Int4PackingFormat

    return _torchao(
        Int4WeightOnlyConfig(
            group_size=128,
            int4_packing_format=Int4PackingFormat.TILE_PACKED_TO_4D,
            set_inductor_config=False,
        )
    )


def _fp8(dtype: torch.dtype) -> Any:
    """Weights and activations, each row by a scale of its own: one scale for all activations would
    let one request change another."""
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow

    return _torchao(
        Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    )


def _torchao(config: Any) -> Any:
    """``config`` sets no inductor options: these would change the precision of all products."""
    from transformers import TorchAoConfig

    return TorchAoConfig(config)


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")


def _refused(reason: str) -> InvalidArgument:
    return InvalidArgument(f"--quantize: {reason}", field="quantize")
