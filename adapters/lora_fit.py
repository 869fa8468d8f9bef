"""Which layers of a model an adapter's modules mean.

Most mean the layer of their own name.  One that projects queries, keys and values together is
split where the model has them apart, and three that do so apart are put together where the model
has them in one; gates and ups likewise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from lorax_spec.adapters.lora_config import Scaling
from lorax_spec.adapters.lora_tensors import PREFIX, Named, Parts, names
from lorax_spec.adapters.shape import FUSED, ModelShape, row_ranges
from lorax_spec.adapters.weights import INPUT, OUTPUT

_SAVED = "modules_to_save are served for the model's embeddings and linear layers"


@dataclass(frozen=True)
class Share:
    """Rows ``source`` of a module's outputs that are rows ``target`` of a layer's."""

    parts: Parts
    rank: int
    scale: float
    source: range
    target: range


@dataclass(frozen=True)
class Update:
    """What an adapter does to the layer ``path`` of [out, in]; ``name`` is what slabs call it, and
    ``turned`` says that files hold its weight as [in, out]."""

    path: str
    name: str
    out_features: int
    in_features: int
    shares: tuple[Share, ...]
    turned: bool

    @property
    def whole(self) -> Share | None:
        """The one share, where it has all of the layer's rows."""
        (first, *others) = self.shares
        return first if not others and len(first.target) == self.out_features else None


@dataclass(frozen=True)
class _Layer:
    """A layer of the model as adapters see it; ``low_rank``: it can take an update; ``turned``:
    files have its weight as [in, out], [vocabulary, hidden] of the input embeddings."""

    name: str
    out_features: int
    in_features: int
    low_rank: bool = True
    turned: bool = False


@dataclass
class Fit:
    updates: list[Update] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def fit(modules: Mapping[str, Parts], scaling: Scaling, shape: ModelShape) -> Fit:
    """Updates of the model's layers, and what is wrong with the modules; the former count only
    where there is none of the latter."""
    found = Fit()
    shares: dict[str, list[Share]] = {}
    for path, parts in modules.items():
        targets = list(_targets(path, parts, shape))
        if not targets:
            found.faults.append(_unknown(path, parts))
            continue
        rank, scale = scaling.rank_of(path), scaling.scale_of(path)
        for target, source_rows, target_rows in targets:
            share = Share(parts, rank, scale, source_rows, target_rows)
            shares.setdefault(target, []).append(share)
        rows = max(rows.stop for _, rows, _ in targets)
        found.faults += _faults(path, parts, rank, rows, _layer(targets[0][0], shape))
        biased = all(f"{target}.bias" in shape.parameters for target, _, _ in targets)
        if parts.bias is not None and shape.parameters and not biased:
            found.faults.append(f"{parts.bias.name}: this model has no bias there")
        if parts.low_rank and parts.bias is None and biased and scaling.biased:
            found.faults.append(f"the trained bias of {path} is missing")
    for target, own in shares.items():
        layer = _layer(target, shape)
        assert layer is not None
        ordered = tuple(sorted(own, key=lambda share: share.target.start))
        if any(a.target.stop > b.target.start for a, b in pairwise(ordered)):
            found.faults.append(f"two modules change the same rows of {target}")
        found.updates.append(
            Update(
                target,
                layer.name,
                layer.out_features,
                layer.in_features,
                ordered,
                layer.turned and layer.name != INPUT,
            )
        )
    return found


def _unknown(path: str, parts: Parts) -> str:
    if parts.weight is not None:
        return f"{parts.weight.name}: {_SAVED}"
    return f"target module {path} is no linear layer of this model that adapters may change"


def own_faults(modules: Mapping[str, Parts], scaling: Scaling) -> Iterator[str]:
    """What is wrong with modules whatever the model; sizes are the tensors' own."""
    for path, parts in modules.items():
        pair = parts.low_rank
        a, b = pair or (None, None)
        embeds = parts.embedding_a is not None or parts.embedding_b is not None
        own = parts.weight or parts.base_weight
        out_features = _size(b, 0) or _size(parts.bias or own, 0)
        layer = _Layer(
            INPUT if embeds else path,
            out_features,
            _size(a, 1) or _size(own, -1),
            turned=embeds,
        )
        yield from _faults(path, parts, scaling.rank_of(path), out_features, layer)


def _size(named: Named | None, axis: int) -> int:
    return named.shape[axis] if named is not None and len(named.shape) > axis else 0


def _layer(path: str, shape: ModelShape) -> _Layer | None:
    if path == shape.output and path:
        return _Layer(OUTPUT, shape.vocab_size, shape.hidden_size)
    if path == shape.input and path:
        return _Layer(INPUT, shape.hidden_size, shape.vocab_size, turned=True)
    if path in shape.linears:
        return _Layer(path, *shape.linears[path], turned=path in shape.turned)
    if path in shape.biased:
        return _Layer(path, shape.biased[path], 0, low_rank=False)
    return None


def _targets(path: str, parts: Parts, shape: ModelShape) -> Iterator[tuple[str, range, range]]:
    """(layer, rows of the module's outputs, rows of the layer's outputs)"""
    layer = _layer(path, shape)
    above, _, name = path.rpartition(".")
    if layer is not None:
        rows = range(layer.out_features)
        yield path, rows, rows
    elif name in FUSED:
        apart = [f"{above}.{part}" for part in FUSED[name]]
        if all(one in shape.linears for one in apart):
            sizes = {one: shape.linears[one][0] for one in apart}
            for one, rows in row_ranges(sizes).items():
                yield one, rows, range(len(rows))
    else:
        for together, names_apart in FUSED.items():
            fused = shape.fused.get(f"{above}.{together}", {})
            if name in names_apart and name in fused:
                rows = fused[name]
                yield f"{above}.{together}", range(len(rows)), rows


def _faults(
    path: str, parts: Parts, rank: int, out_features: int, layer: _Layer | None
) -> Iterator[str]:
    """``out_features`` are the module's, of which ``layer`` may have a part or more."""
    assert layer is not None
    embeds, pair = layer.name == INPUT, parts.low_rank
    in_features = layer.in_features
    expected: list[tuple[Named | None, str, tuple[int, ...]]] = []
    if pair is not None:
        ends = (".lora_embedding_A", ".lora_embedding_B")
        ends = ends if embeds else (".lora_A.weight", ".lora_B.weight")
        expected += [
            (pair[0], ends[0], (rank, in_features)),
            (pair[1], ends[1], (out_features, rank)),
        ]
        if not layer.low_rank:
            yield f"target module {path} is no linear layer"
            return
        if embeds != (parts.embedding_a is not None or parts.embedding_b is not None) or (
            None not in (parts.a or parts.b, parts.embedding_a or parts.embedding_b)
        ):
            yield f"{names(pair)}: embeddings have lora_embedding_A and _B, other layers lora_A, _B"
            return
    weight_shape = (out_features, in_features)
    if layer.turned:
        weight_shape = weight_shape[::-1]
    for one in (parts.weight, parts.base_weight):
        if one is not None:
            expected.append((one, "", weight_shape))
    for one in (parts.bias, parts.b_bias, parts.magnitude):
        if one is not None:
            expected.append((one, "", (out_features,)))
    for named, end, wanted in expected:
        if named is None:
            yield f"tensor {PREFIX}{path}{end} is missing"
        elif named.shape != wanted:
            yield f"{named.name} is {list(named.shape)}, this model needs {list(wanted)}"
    yield from _combination_faults(path, parts, embeds, layer)


def _combination_faults(path: str, parts: Parts, embeds: bool, layer: _Layer) -> Iterator[str]:
    pair = parts.low_rank
    if pair is None and (parts.b_bias or parts.magnitude):
        yield f"{names([parts.b_bias, parts.magnitude])}: {path} has no lora_A and lora_B"
    if parts.weight is not None and (pair or parts.base_weight):
        yield f"{path} is both saved whole and changed by a LoRA"
    if parts.weight is not None and not layer.low_rank:
        yield f"{parts.weight.name}: {_SAVED}"
    if embeds and (parts.magnitude or parts.bias or parts.b_bias):
        one = names([parts.magnitude, parts.bias, parts.b_bias])
        yield f"{one}: embeddings take a plain LoRA or a new weight only"
