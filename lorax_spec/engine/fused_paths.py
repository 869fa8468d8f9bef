"""Kernels put into transformers' modules from outside, where they prove to compute the same.

What a model does is watched in one pass over random tokens.  A replacement is tried on what its
module was given, or on random numbers, and stays only if it gives what the module gave; else
nothing changes.  Paths, names and weights stay, so adapters find every layer.

- Linear layers of one input become one product (see merged.py).
- Norms, and the sum before a norm, are one launch: a block gives the norm after it what it will ask
  for next, together with the sum that is the block's result.
- Of a gated feed-forward layer, activation and product are one launch.
- Of attention, rotation and the write into the cache are one launch, in passes that are given a
  ``WriteRotated``: ``model(..., write_rotated=...)``.  Attention is then called with
  ``written=True``, the rotated query, and key and value as they were.  A layer that could not be
  replaced calls attention as ever, with all rotated and nothing written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lorax_spec.engine.merged import ExactLinear, replace_linears
from lorax_spec.engine.packed import shared_inputs
from lorax_spec.engine.step_ops import WriteRotated
from lorax_spec.engine.watched import (
    ROWS,
    TOLERANCES,
    Attended,
    Call,
    alike,
    keep_if_alike,
    put,
    random_rows,
    watch,
    watched,
)
from lorax_spec.kernels.triton.activation import silu_product
from lorax_spec.kernels.triton.norm import LONGEST_ROW, add_rms_norm, rms_norm
from lorax_spec.kernels.triton.rope import rotate_and_write


class KernelRMSNorm(nn.Module):
    """Root mean square norm; where asked to, of a sum, or before it is asked for."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self._epsilon = epsilon
        self._ahead: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] is x:
            return ahead[1]
        return rms_norm(x, self.weight, self._epsilon)

    def of_sum(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(sum, normed) of ``residual + x``."""
        return add_rms_norm(x, residual, self.weight, self._epsilon)

    def sum_ahead(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """``residual + x``, whose norm is at hand when that very tensor comes next."""
        self._ahead = self.of_sum(x, residual)
        return self._ahead[0]


@torch.no_grad()
def use_kernels(model: PreTrainedModel, *, exact: bool = False) -> list[str]:
    """Replace whatever can be; says what was, as "path: what".

    Comes before adapters, which wrap the layers that are there afterwards.

    Args:
        exact: every linear layer has the same bits for a row in any batch (see ``not_exact``).
    """
    with watched(model):
        calls, attended = watch(model)
        groups = shared_inputs(model)
        replaced = [f"{name}: product" for name in replace_linears(model, groups, exact)]
        replaced += [f"{name}: norm" for name in _replace_norms(model)]
        for name, module in model.named_modules():
            if _fuse_gated(module):
                replaced.append(f"{name}: gated product")
            if module in attended and _fuse_rotation(module, calls[name], attended[module]):
                replaced.append(f"{name}: rotation and write")
        for name, module in model.named_modules():
            if name in calls and _fuse_sums(module, calls[name], _next_norm(model, name, calls)):
                replaced.append(f"{name}: sums with norms")
    return replaced


def not_exact(model: nn.Module) -> list[str]:
    """Paths of modules with weights that others than exact layers and our norms compute with."""
    ours = (nn.Embedding, ExactLinear, KernelRMSNorm)
    return [
        name
        for name, module in model.named_modules()
        if not isinstance(module, ours) and next(module.parameters(recurse=False), None) is not None
    ]


def _replace_norms(model: nn.Module) -> Iterator[str]:
    for name, module in list(model.named_modules()):
        weight, epsilon = getattr(module, "weight", None), getattr(module, "variance_epsilon", None)
        if not isinstance(weight, nn.Parameter) or not isinstance(epsilon, float):
            continue
        if weight.dtype not in TOLERANCES or weight.dim() != 1 or len(weight) > LONGEST_ROW:
            continue
        norm = KernelRMSNorm(weight, epsilon)
        # Small rows show the epsilon, and rows with a mean whether it is taken off.
        sizes = torch.logspace(-3, 1, ROWS, device=weight.device).to(weight.dtype)
        x = (random_rows(weight, len(weight)) + 1) * sizes[:, None]
        if alike(norm(x), module(x)):
            put(model, name, norm)
            yield name


def _fuse_gated(module: Any) -> bool:
    """Activation and product of ``down_proj(act_fn(gate_proj(x)) * up_proj(x))``."""
    layers = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    activation = getattr(module, "act_fn", None)
    if activation is None or not all(isinstance(layer, nn.Linear) for layer in layers):
        return False
    weight = module.gate_proj.weight
    if weight.dtype not in TOLERANCES:
        return False
    # By itself too: after small weights all activations look alike.
    wide = torch.linspace(-9, 9, 64, device=weight.device).to(weight.dtype)[None]
    if not alike(silu_product(wide, torch.ones_like(wide)), activation(wide)):
        return False

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.down_proj(silu_product(self.gate_proj(x), self.up_proj(x)))
        return y

    x = random_rows(weight, module.gate_proj.in_features)
    return keep_if_alike(module, forward, lambda: [module(x)], [module(x)])


def _fuse_sums(block: nn.Module, call: Call, following: KernelRMSNorm | None) -> bool:
    """The sum after attention with the norm after it, and that after the feed-forward layer with
    the norm ``following``, which is given the block's result."""
    norms = (getattr(block, n, None) for n in ("input_layernorm", "post_attention_layernorm"))
    if not all(isinstance(norm, KernelRMSNorm) for norm in norms):
        return False
    if not hasattr(block, "self_attn") or not hasattr(block, "mlp"):
        return False
    if len(call.args) != 1 or not isinstance(call.output, torch.Tensor):
        return False

    def forward(self: Any, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        normed = self.input_layernorm(hidden_states)
        mixed, _ = self.self_attn(hidden_states=normed, **kwargs)
        total, normed = self.post_attention_layernorm.of_sum(mixed, hidden_states)
        fed: torch.Tensor = self.mlp(normed)
        return total + fed if following is None else following.sum_ahead(fed, total)

    def outputs() -> list[torch.Tensor]:
        output = block(*call.args, **call.kwargs)
        return [output] if following is None else [output, following(output)]

    return keep_if_alike(block, forward, outputs, outputs())


def _next_norm(model: nn.Module, name: str, calls: dict[str, Call]) -> KernelRMSNorm | None:
    """The norm that was given the very tensor that this module gave."""
    for other, call in calls.items():
        if call.args and call.args[0] is calls[name].output:
            module = model.get_submodule(other)
            if isinstance(module, KernelRMSNorm):
                return module
    return None


def _fuse_rotation(module: Any, call: Call, attended: Attended) -> bool:
    """Rotation of queries and keys, and the write into the cache."""
    if not _rotates_heads(module, call, attended):
        return False
    # What the module adds of its own: scale, window, sinks.
    options = {key: v for key, v in attended.options.items() if key not in call.kwargs}

    def forward(
        self: Any,
        hidden_states: torch.Tensor,
        position_embeddings: Any = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        write_rotated: WriteRotated | None = None,
        **kwargs: Any,
    ) -> Any:
        if write_rotated is None:
            return type(self).forward(
                self,
                hidden_states=hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape)
        key = self.k_proj(hidden_states).view(shape)
        value = self.v_proj(hidden_states).view(shape)
        if hasattr(self, "q_norm"):
            query, key = self.q_norm(query), self.k_norm(key)
        cos, sin = position_embeddings
        rotated = write_rotated(self.layer_idx, query[0], key[0], value[0], cos[0], sin[0])
        attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
        mixed, weights = attend(
            self,
            rotated.transpose(0, 1)[None],
            key.transpose(1, 2),
            value.transpose(1, 2),
            attention_mask,
            written=True,
            **options,
            **kwargs,
        )
        return self.o_proj(mixed.reshape(*shape[:-2], -1)), weights

    seen: dict[nn.Module, Attended] = {}
    caches = [torch.zeros_like(one[0]).contiguous() for one in (attended.key, attended.value)]
    slots = torch.arange(caches[0].shape[1], device=caches[0].device)

    def write(
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
    ) -> torch.Tensor:
        return rotate_and_write(query, key, value, cos, sin, caches[0], caches[1], slots)

    def outputs() -> list[torch.Tensor]:
        output = module(*call.args, **{**call.kwargs, "seen": seen, "write_rotated": write})[0]
        return [output, seen[module].query, *caches]

    expected = [call.output[0], attended.query, attended.key[0], attended.value[0]]
    if not keep_if_alike(module, forward, outputs, expected):
        return False
    if _same_options(seen[module].options, {**attended.options, "written": True}):
        return True
    del module.forward
    return False


def _rotates_heads(module: Any, call: Call, attended: Attended) -> bool:
    """Whether it is built like Llama's attention, as far as shapes tell."""
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "head_dim", "layer_idx")
    turn = call.kwargs.get("position_embeddings")
    if not all(hasattr(module, name) for name in names) or not isinstance(turn, tuple):
        return False
    size = module.head_dim
    if any(one.shape[-1] != size for one in (*turn, attended.query, attended.key, attended.value)):
        return False
    norms = [getattr(module, name).weight for name in ("q_norm", "k_norm") if hasattr(module, name)]
    return attended.query.dtype in TOLERANCES and all(len(weight) == size for weight in norms)


def _same_options(actual: dict[str, Any], expected: dict[str, Any]) -> bool:
    return actual.keys() == expected.keys() and all(
        actual[key] is value or (not isinstance(value, torch.Tensor) and actual[key] == value)
        for key, value in expected.items()
    )
