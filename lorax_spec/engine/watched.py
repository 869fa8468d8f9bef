"""Looking at what transformers' modules do, and trying to have the same done otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

_WATCHED = "lorax_spec_watched"
#: Four roundings of a result, as different orders of sums make; in float32 those of long sums.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2**-8, torch.bfloat16: 2**-5}
#: Rows that are looked at.
ROWS = 5


@dataclass(frozen=True)
class Call:
    """What a module was called with, and what it gave."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@dataclass(frozen=True)
class Attended:
    """What a module handed over to attention: query [1, heads, rows, head_dim] and so on, and its
    keyword arguments."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    options: dict[str, Any]


def _attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    seen: dict[nn.Module, Attended] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Stands in for attention.  The key is left out of the result: who wrote it into a cache hands
    over another."""
    if seen is not None:
        seen[module] = Attended(query, key, value, options)
    shared = query.shape[1] // value.shape[1]
    mixed = value.repeat_interleave(shared, 1) + query.mean(-1, keepdim=True)
    return mixed.transpose(1, 2).contiguous(), None


@contextmanager
def watched(model: PreTrainedModel) -> Iterator[None]:
    """In between, a ``model(..., seen={})`` notes what its modules hand over to attention."""
    AttentionInterface.register(_WATCHED, _attention)
    before = model.config._attn_implementation
    model.set_attn_implementation(_WATCHED)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def watch(model: PreTrainedModel) -> tuple[dict[str, Call], dict[nn.Module, Attended]]:
    """One pass of a ``watched`` model over random tokens: (calls by path, attention by module)."""
    calls: dict[str, Call] = {}
    seen: dict[nn.Module, Attended] = {}
    hooks = []
    for name, module in model.named_modules():

        def note(_: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            calls[name] = Call(args, kwargs, output)

        hooks.append(module.register_forward_hook(note, with_kwargs=True))
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.config.get_text_config().vocab_size)
    model(
        input_ids=torch.randint(vocabulary, (1, ROWS), generator=generator).to(model.device),
        position_ids=torch.randint(99, (1, ROWS), generator=generator).to(model.device),
        use_cache=False,
        seen=seen,
    )
    for hook in hooks:
        hook.remove()
    return calls, dict(seen)


def keep_if_alike(
    module: Any,
    forward: Callable[..., Any],
    outputs: Callable[[], list[torch.Tensor]],
    expected: list[torch.Tensor],
) -> bool:
    """Whether ``module`` gives ``outputs`` as ``expected`` with another ``forward``, which it then
    keeps."""
    module.forward = MethodType(forward, module)
    if all(alike(*pair) for pair in zip(outputs(), expected, strict=True)):
        return True
    del module.forward
    return False


def alike(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    """But for roundings of numbers of the usual size among them."""
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        return False
    bound = TOLERANCES[expected.dtype]
    usual = float(expected.float().square().mean().sqrt())
    return torch.allclose(actual.float(), expected.float(), rtol=bound, atol=bound * usual)


def random_rows(like: torch.Tensor, size: int) -> torch.Tensor:
    """Normal numbers [ROWS, size]."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, size, generator=generator).to(like.device, like.dtype)


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """In the place of the one of this path."""
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)
