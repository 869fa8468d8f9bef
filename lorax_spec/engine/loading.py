"""From an EngineConfig to everything an engine starts with; sizes left open are chosen here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from lorax_spec import __version__
from lorax_spec.adapters.manager import AdapterManager
from lorax_spec.adapters.room import Budget
from lorax_spec.adapters.shape import shape_of
from lorax_spec.adapters.sources import SourceSettings, open_sources
from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.determinism import AFFORDABLE, cost_of_invariance, row_floor
from lorax_spec.engine.fused import plain_linears
from lorax_spec.engine.memory import keep_freed_memory
from lorax_spec.engine.model import LanguageModel
from lorax_spec.engine.ops_choice import choose_ops, prepare, uses_kernels
from lorax_spec.engine.quantized import checkpoint_method, is_quantized, read_quantized
from lorax_spec.errors import InvalidArgument
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.types import Info

#: From this many parameters on, a CPU step waits for memory and bfloat16 halves it.
_MEMORY_BOUND_PARAMETERS = 50_000_000
#: Share of free memory the KV cache takes, at most, and how many full requests it aims for.
_CACHE_FRACTION = {"cpu": 0.25, "cuda": 0.85}
_CPU_CACHE_REQUESTS = 16


@dataclass(frozen=True)
class Loaded:
    """What EngineCore is made of."""

    config: EngineConfig
    model: LanguageModel
    adapters: AdapterManager
    info: Info
    blocks: int
    eos_token_ids: tuple[int, ...]
    #: Steps are computed by kernels.
    kernels: bool = False


def load(config: EngineConfig, made: PreTrainedModel | None = None) -> Loaded:
    """Read the model, size its cache, look for its adapters.

    ``made``: a model instead of the folder's, on the right device and in the right dtype; tokenizer
    and ends are the folder's all the same.

    Raises:
        InvalidArgument: an option cannot be met on this machine or by this model, or contradicts
            another.
    """
    path = model_folder(config.model_id, config.revision)
    device = _device(config.device)
    hf_model = _read_model(path, config, device) if made is None else made
    turned = plain_linears(hf_model)
    if device.type == "cpu":
        keep_freed_memory()
        if (threads := _threads(config, hf_model)) is not None:
            torch.set_num_threads(threads)
    kernels = uses_kernels(config, device)
    prepare(hf_model, kernels=kernels, exact=bool(config.deterministic))
    shape = shape_of(hf_model, config.model_id, turned=turned)
    floor, deterministic = _row_floor(config, hf_model, kernels=kernels)
    max_total = config.max_total_tokens or int(
        getattr(hf_model.config.get_text_config(), "max_position_embeddings", 4096)
    )
    ops = choose_ops(
        config, device, max_total, kernels=kernels, exact=deterministic, row_floor=floor
    )
    model = LanguageModel(hf_model, ops)
    adapter_bytes = int(_free_memory(device) * config.adapter_memory_fraction)
    host_bytes = config.adapter_host_bytes
    if host_bytes is None:
        host_bytes = adapter_bytes
    blocks = _cache_blocks(config, model, max_total)
    model.allocate_cache(blocks + 1)
    info = Info(
        version=__version__,
        model_id=config.model_id,
        model_revision=config.revision or "",
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(device),
        max_input_length=config.max_input_length or max_total - 1,
        max_total_tokens=max_total,
        max_concurrent_requests=0,
        speculative_tokens=config.speculative_tokens,
        deterministic=deterministic,
        default_adapter_id="",
        workers=1,
        max_batch_total_tokens=blocks * BLOCK_SIZE,
        block_size=BLOCK_SIZE,
        model_path=str(path),
    )
    adapters = AdapterManager(
        open_sources(
            SourceSettings(
                config.adapter_roots,
                config.adapter_sources,
                config.adapter_urls,
                config.adapter_cache_dir,
                config.adapter_cache_bytes,
                config.adapter_refresh_s,
            )
        ),
        shape,
        dtype=model.dtype,
        device=device,
        budget=Budget(adapter_bytes, config.max_active_adapters, host_bytes),
        cycle_time=config.adapter_cycle_time_s,
    )
    return Loaded(config, model, adapters, info, blocks + 1, _eos_ids(hf_model, path), kernels)


def model_folder(model_id: str, revision: str | None) -> Path:
    """The folder of a model: as named, or fetched from the hub."""
    folder = Path(model_id).expanduser()
    if folder.is_dir():
        return folder.resolve()
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model_id, revision=revision))


def _read_model(path: Path, config: EngineConfig, device: torch.device) -> PreTrainedModel:
    dtype: torch.dtype | None = None if config.dtype == "auto" else getattr(torch, config.dtype)
    if config.quantize is not None or checkpoint_method(path) is not None:
        usual = partial(_auto_dtype, device=device)
        return read_quantized(path, config.quantize, dtype, usual, device)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    if dtype is None:
        model = model.to(_auto_dtype(model, device))
    return model.to(device)


def _auto_dtype(model: PreTrainedModel, device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return model.dtype if model.dtype != torch.float32 else torch.bfloat16
    native = torch.cpu._is_avx512_bf16_supported()
    large = model.num_parameters() >= _MEMORY_BOUND_PARAMETERS
    return torch.bfloat16 if native and large else torch.float32


def _threads(config: EngineConfig, model: PreTrainedModel) -> int | None:
    if config.threads is not None or "OMP_NUM_THREADS" in os.environ:
        return config.threads
    large = model.num_parameters() >= _MEMORY_BOUND_PARAMETERS
    return psutil.cpu_count(logical=False) if large else 1


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InvalidArgument(f"device {name!r}: torch finds no CUDA device here", field="device")
    return torch.device(name)


def _row_floor(config: EngineConfig, model: PreTrainedModel, *, kernels: bool) -> tuple[int, bool]:
    """(fewest rows of a product, whether results are the same to the bit in any batch)"""
    if kernels:
        return 1, bool(config.deterministic)
    if model.device.type != "cpu":
        if config.deterministic:
            raise _not_deterministic("on CUDA it needs kernels (--kernels triton)")
        return 1, False
    if config.deterministic is None and is_quantized(model):
        return 1, False
    heads = _heads(model)
    floor = None if config.deterministic is False else row_floor(model, *heads)
    if floor is None and config.deterministic:
        raise _not_deterministic("not every product is independent of its neighbours here")
    deterministic = floor is not None and (
        bool(config.deterministic) or cost_of_invariance(model, floor, *heads) < AFFORDABLE
    )
    return (floor or 1) if deterministic else 1, deterministic


def _heads(model: PreTrainedModel) -> tuple[int, int, int]:
    """(query heads, key heads, head size) as the configuration gives them."""
    config = model.config.get_text_config()
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    return heads, kv_heads, int(getattr(config, "head_dim", None) or config.hidden_size // heads)


def _not_deterministic(reason: str) -> InvalidArgument:
    return InvalidArgument(f"--deterministic: {reason}", field="deterministic")


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _cache_blocks(config: EngineConfig, model: LanguageModel, max_total: int) -> int:
    if config.max_batch_total_tokens is not None:
        tokens = config.max_batch_total_tokens
    else:
        share = _free_memory(model.device) * _CACHE_FRACTION[model.device.type]
        tokens = int(share / model.kv_bytes_per_token())
        if model.device.type == "cpu":
            tokens = min(tokens, _CPU_CACHE_REQUESTS * max_total)
    if tokens < max_total:
        raise InvalidArgument(
            f"room for {tokens} tokens cannot hold one request of max_total_tokens={max_total}; "
            "lower --max-total-tokens or raise --max-batch-total-tokens",
            field="max_batch_total_tokens",
        )
    return -(-tokens // BLOCK_SIZE)


def _eos_ids(model: PreTrainedModel, path: Path) -> tuple[int, ...]:
    """Ids that end a text: the generation config's, else the model's."""
    if (path / "generation_config.json").exists():
        ids = GenerationConfig.from_pretrained(path).eos_token_id
    else:
        ids = model.config.eos_token_id
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, list) else (int(ids),)
