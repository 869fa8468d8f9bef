"""The language model: transformers' code, our attention, adapters on its linear layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from lorax_spec.engine.batch import Batch, Lanes
from lorax_spec.engine.fused import fuse_norms
from lorax_spec.errors import InvalidArgument
from lorax_spec.kernels import kv_cache
from lorax_spec.kernels.attention import paged_attention
from lorax_spec.kernels.lora import add_lora

ATTENTION = "lorax_spec_paged"

#: Scalings that look at the longest position of the whole batch: one request would change another.
_BATCH_DEPENDENT_ROPE = {"dynamic", "longrope"}

KVCaches = dict[int, tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class KVShape:
    """One attention layer's cache: heads and sizes as they arrive at the attention function."""

    kv_heads: int
    key_dim: int
    value_dim: int


@dataclass
class StepContext:
    """What attention needs beside the model's own arguments.

    Without caches it only notes the shapes it sees (``shapes``), which is how a model's cache is
    sized without knowing the architecture.
    """

    caches: KVCaches
    batch: Batch | None
    shapes: dict[int, KVShape]
    exact: bool


class LaneHolder:
    """The current step's adapter rows, shared by all wrapped linear layers of one model."""

    def __init__(self) -> None:
        self.lanes: tuple[Lanes, ...] = ()


class LoraLinear(nn.Module):
    """A linear layer of the base model that adds the updates of whichever adapters a row has."""

    def __init__(self, base: nn.Module, name: str, holder: LaneHolder) -> None:
        super().__init__()
        self.base = base
        self._name = name
        self._holder = holder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Past Module.__call__: on a small model its bookkeeping costs as much as the product.
        y: torch.Tensor = self.base.forward(x)
        for lanes in self._holder.lanes:
            if self._name in lanes.adapters[0].modules:
                pairs = [adapter.modules[self._name] for adapter in lanes.adapters]
                a = torch.stack([a for a, _ in pairs])
                b = torch.stack([b for _, b in pairs])
                flat_y, flat_x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
                add_lora(flat_y, flat_x, lanes.rows, lanes.kept, a, b, lanes.scale.to(x.dtype))
        return y


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    paged: StepContext | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """transformers' attention hook: query [1, heads, rows, head_dim] -> [1, rows, heads, dim]."""
    assert paged is not None and attention_mask is None
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    if paged.batch is None:
        paged.shapes[layer] = KVShape(key.shape[1], key.shape[3], value.shape[3])
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None
    keys, values = paged.caches[layer]
    kv_cache.write(keys, key[0], paged.batch.slots)
    kv_cache.write(values, value[0], paged.batch.slots)
    out = paged_attention(
        query[0],
        keys,
        values,
        paged.batch.tiles,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
        sinks=s_aux,
        exact=paged.exact,
    )
    return out[None], None


class LanguageModel:
    """A causal language model over a paged KV cache and rows of any adapters.

    Wraps ``model`` in place: its attention and its linear layers (but the lm head's) are ours from
    here on.  ``exact``: a row's attention has the same bits in any batch.
    """

    def __init__(self, model: PreTrainedModel, exact: bool) -> None:
        self.model = model.eval()
        self._exact = exact
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.text_config = model.config.get_text_config()
        _check_rope(self.text_config)
        head = model.get_output_embeddings()
        assert head is not None
        self.lm_head: nn.Module = head
        self.vocabulary = int(self.text_config.vocab_size)
        self.hidden_size = int(self.text_config.hidden_size)
        self._captured: torch.Tensor | None = None
        self.lm_head.register_forward_pre_hook(self._capture)
        self._holder = LaneHolder()
        _wrap_linears(model, self.lm_head, self._holder)
        fuse_norms(model)
        AttentionInterface.register(ATTENTION, _attend)
        model.set_attn_implementation(ATTENTION)
        self.caches: KVCaches = {}
        self.kv_shapes: dict[int, KVShape] = {}
        self._probe()

    @property
    def shared_heads(self) -> int:
        """Query heads per key head."""
        heads = int(self.text_config.num_attention_heads)
        return max(1, heads // min(shape.kv_heads for shape in self.kv_shapes.values()))

    def kv_bytes_per_token(self) -> int:
        size = torch.empty((), dtype=self.dtype).element_size()
        numbers = sum(s.kv_heads * (s.key_dim + s.value_dim) for s in self.kv_shapes.values())
        return numbers * size

    def allocate_cache(self, blocks: int) -> None:
        """Room for ``blocks`` blocks in every layer."""
        self.caches = {
            layer: kv_cache.allocate(
                shape.kv_heads, blocks, shape.key_dim, shape.value_dim, self.dtype, self.device
            )
            for layer, shape in self.kv_shapes.items()
        }

    @torch.inference_mode()
    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass over ``batch``.

        Returns:
            hidden [kept rows, hidden_size], the lm head's inputs, in the model's dtype, and
            logits [kept rows, vocabulary], float32.
        """
        return self._run(batch.ids, batch.positions, batch.kept, batch.lanes, batch)

    @torch.inference_mode()
    def head_logits(self, states: torch.Tensor) -> torch.Tensor:
        """The lm head's float32 logits of any states [..., hidden_size]."""
        logits: torch.Tensor = self.lm_head(states)
        return logits.float()

    @torch.inference_mode()
    def move(self, source: list[int], target: list[int]) -> None:
        """Copy cache slots, in every layer."""
        kv_cache.move(
            list(self.caches.values()),
            torch.tensor(source, device=self.device),
            torch.tensor(target, device=self.device),
        )

    def _run(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        kept: torch.Tensor,
        lanes: tuple[Lanes, ...],
        batch: Batch | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        context = StepContext(self.caches, batch, {}, self._exact)
        self._holder.lanes = lanes
        output = self.model(
            input_ids=ids[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=kept,
            paged=context,
        )
        if batch is None:
            self.kv_shapes = context.shapes
        assert self._captured is not None
        return self._captured[0], output.logits[0].float()

    @torch.inference_mode()
    def _probe(self) -> None:
        """Run one token through the model to see what its layers cache."""
        zero = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._run(zero, zero, zero, (), None)

    def _capture(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._captured = inputs[0]


def _wrap_linears(model: nn.Module, lm_head: nn.Module, holder: LaneHolder) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and module is not lm_head:
            parent, _, attribute = name.rpartition(".")
            wrapped = LoraLinear(module, name, holder)
            setattr(model.get_submodule(parent), attribute, wrapped)


def _check_rope(config: object) -> None:
    parameters = getattr(config, "rope_parameters", None) or {}
    kind = parameters.get("rope_type", "default")
    if kind in _BATCH_DEPENDENT_ROPE:
        raise InvalidArgument(
            f"rope type {kind!r} scales by the longest request of a batch, which would let one "
            "request change another; it is not served yet",
            field="model_id",
        )
