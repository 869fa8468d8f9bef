"""The language model: transformers' code, our attention, adapters on its linear layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel

from lorax_spec.adapters.weights import OUTPUT
from lorax_spec.engine.adapted import AdaptedLayer, Holders, adapt_layers
from lorax_spec.engine.batch import Batch
from lorax_spec.engine.scheduler import Scheduled
from lorax_spec.engine.step_ops import Attend, KVCaches, OpsOf, WriteRotated
from lorax_spec.errors import InvalidArgument
from lorax_spec.kernels import kv_cache

ATTENTION = "lorax_spec_paged"

#: Scalings that look at the longest position of the whole batch: one request would change another.
_BATCH_DEPENDENT_ROPE = {"dynamic", "longrope"}


@dataclass(frozen=True)
class KVShape:
    """One attention layer's cache: heads and sizes as they arrive at the attention function."""

    kv_heads: int
    key_dim: int
    value_dim: int


def _attention_hook(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    attend: Attend | None = None,
    written: bool = False,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: hands over to the ``attend`` that ``model(...)`` was given."""
    assert attend is not None and attention_mask is None
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed = attend(layer, query, key, value, scale, sliding_window, softcap, s_aux, written)
    return mixed, None


def _mix(
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: torch.Tensor | None,
    written: bool,
) -> torch.Tensor:
    """Stands in for attention where there is no cache: depends on all it is given."""
    share = query.shape[1] // key.shape[1]
    mixed = value + key.mean(-1, keepdim=True)
    mixed = mixed.repeat_interleave(share, 1) + query.mean(-1, keepdim=True)
    return mixed.transpose(1, 2).contiguous()


class LanguageModel:
    """A causal language model over a paged KV cache and rows of any adapters.

    Wraps ``model`` in place: its attention and its linear layers are ours from here on.  ``ops``
    says what its passes are computed with.
    """

    def __init__(self, model: PreTrainedModel, ops: OpsOf) -> None:
        self.model = model.eval()
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.text_config = model.config.get_text_config()
        _check_rope(self.text_config)
        head, self._embedding = model.get_output_embeddings(), model.get_input_embeddings()
        assert head is not None
        self.lm_head: nn.Module = head
        self.vocabulary = int(self.text_config.vocab_size)
        self.hidden_size = int(self.text_config.hidden_size)
        self._captured: torch.Tensor | None = None
        self.adapters = Holders()
        adapted_head = adapt_layers(model, head, self._embedding, self.adapters)
        adapted_head.register_forward_pre_hook(self._capture)
        AttentionInterface.register(ATTENTION, _attention_hook)
        model.set_attn_implementation(ATTENTION)
        self.caches: KVCaches = {}
        self._attention: Attend = _mix
        self._write_rotated: WriteRotated | None = None
        self.kv_shapes = self._probe()
        self._ops = ops(self)

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

    @property
    def longest(self) -> int:
        """Positions that it knows."""
        return int(getattr(self.text_config, "max_position_embeddings", 1 << 30))

    @property
    def adapted_paths(self) -> tuple[str, ...]:
        """Of its inner layers that adapters may change."""
        layers = (m for m in self.model.modules() if type(m) is AdaptedLayer)
        return tuple(layer.name for layer in layers if layer.name != OUTPUT)

    @property
    def took_longer(self) -> bool:
        """Whether the last pass was prepared first, so that its time says nothing."""
        return self._ops.programs.took_longer

    def lay_out(self, plan: Sequence[Scheduled]) -> Batch:
        """The batch of a plan; it holds until the next one is laid out."""
        return self._ops.lay_out(plan)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """One pass over ``batch``.

        Returns:
            hidden [kept rows, hidden_size], the lm head's inputs, in the model's dtype, and
            logits [kept rows, vocabulary], float32.
        """
        adapted = self.adapters.show(batch.lanes, batch.output_lanes)
        self._attention = self._ops.attention(self.caches, batch)
        self._write_rotated = self._ops.write_rotated(self.caches, batch)
        program = self._ops.programs.find(batch, adapted)
        if program is None:
            hidden, logits = self.run(batch.ids, batch.positions, batch.kept, self.attend)
        else:
            hidden, logits = program(batch.ids, batch.positions)
            kept = slice(len(batch.kept)) if batch.kept_in_order else batch.kept
            hidden, logits = hidden[kept], logits[kept]
        # Who holds nothing between steps keeps no memory of an adapter that is evicted then.
        self._attention, self._write_rotated = _mix, None
        self.adapters.show((), ())
        return hidden, logits.float()

    @torch.inference_mode()
    def head_logits(self, states: torch.Tensor) -> torch.Tensor:
        """The base model's float32 logits of any states [..., hidden_size]."""
        logits: torch.Tensor = self.lm_head(states)
        return logits.float()

    @torch.inference_mode()
    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Input embeddings [..., hidden_size] of any token ids, as the model's own module makes
        them."""
        embedded: torch.Tensor = self._embedding(ids)
        return embedded

    @torch.inference_mode()
    def move(self, source: list[int], target: list[int]) -> None:
        """Copy cache slots, in every layer."""
        self._ops.move(self.caches, source, target)

    def run(
        self, ids: torch.Tensor, positions: torch.Tensor, kept: torch.Tensor, attend: Attend
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(hidden, logits) of the kept rows, by transformers' own code."""
        # Layers that were not replaced would not know it.
        ways = {} if self._write_rotated is None else {"write_rotated": self._write_rotated}
        output = self.model(
            input_ids=ids[None],
            position_ids=positions[None],
            use_cache=False,
            logits_to_keep=kept,
            attend=attend,
            **ways,
        )
        assert self._captured is not None
        return self._captured[0], output.logits[0]

    def attend(self, *arguments: Any) -> torch.Tensor:
        """The current step's attention."""
        return self._attention(*arguments)

    @contextmanager
    def detached(self) -> Iterator[None]:
        """Passes in between have no adapters, and a stand-in for attention that has no cache."""
        current, self._attention = self._attention, _mix
        with self.adapters.hidden():
            yield
        self._attention = current

    @torch.inference_mode()
    def _probe(self) -> dict[int, KVShape]:
        """Run one token through the model to see what its layers cache."""
        shapes = {}

        def note(layer: int, query: torch.Tensor, key: torch.Tensor, *rest: Any) -> torch.Tensor:
            shapes[layer] = KVShape(key.shape[1], key.shape[3], rest[0].shape[3])
            return _mix(layer, query, key, *rest)

        zero = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.run(zero, zero, zero, note)
        return shapes

    def _capture(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._captured = inputs[0]


def _check_rope(config: object) -> None:
    parameters = getattr(config, "rope_parameters", None) or {}
    kind = parameters.get("rope_type", "default")
    if kind in _BATCH_DEPENDENT_ROPE:
        raise InvalidArgument(
            f"rope type {kind!r} scales by the longest request of a batch, which would let one "
            "request change another; it is not served yet",
            field="model_id",
        )
