"""The least time that a step can take: its bytes by the bandwidth, its products by the peak."""

from __future__ import annotations

from dataclasses import dataclass

from lorax_spec.bench.widening.shape import Shape


@dataclass(frozen=True)
class Ceilings:
    """Measured: bytes read and written per second, and operations per second."""

    bandwidth: float
    flops: float


@dataclass(frozen=True)
class Cost:
    """Of a Llama of ``shape``; ``itemsize``: bytes of a number."""

    shape: Shape
    vocabulary: int
    tied: bool
    itemsize: int = 2

    @property
    def parameters_read(self) -> int:
        """By every step: all but the embedding, of which it takes single rows.  A tied one is read
        as the lm head."""
        all_of_them = self.shape.parameters(self.vocabulary, self.tied)
        return all_of_them - (0 if self.tied else self.vocabulary * self.shape.hidden_size)

    @property
    def weight_bytes(self) -> int:
        return self.parameters_read * self.itemsize

    @property
    def kv_bytes_per_token(self) -> int:
        shape = self.shape
        return 2 * shape.layers * shape.kv_heads * shape.head_dim * self.itemsize

    def step_bytes(self, batch: int, context: float) -> float:
        """Weights once, and the keys and values of every sequence once, whatever its rows."""
        return self.weight_bytes + batch * context * self.kv_bytes_per_token

    def seconds(self, batch: int, context: float, ceilings: Ceilings, rows: int = 1) -> float:
        """Of a step with ``rows`` of each sequence."""
        reading = self.step_bytes(batch, context) / ceilings.bandwidth
        return max(reading, 2 * self.parameters_read * batch * rows / ceilings.flops)

    def lora_bytes(self, rank: int) -> int:
        """Of an update of every linear layer."""
        shape = self.shape
        q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        sides = 2 * (shape.hidden_size + q) + 2 * (shape.hidden_size + kv)
        sides += 3 * (shape.hidden_size + shape.intermediate_size)
        return shape.layers * rank * sides * self.itemsize

    def medusa_bytes(self, heads: int) -> int:
        """Of heads that share the lm head."""
        size = self.shape.hidden_size
        return heads * (size * size + size) * self.itemsize
