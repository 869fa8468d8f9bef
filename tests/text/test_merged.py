"""A request for merged adapters is complete, or its one wrong field is named."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorax_spec import wire
from lorax_spec.errors import InvalidArgument
from lorax_spec.text.merged import MAX_PARTS
from lorax_spec.text.validate import Limits, validate
from lorax_spec.types import (
    BASE_MODEL,
    AdapterRef,
    GenerateRequest,
    MergedAdapters,
    MergedRef,
)
from tests.text.samples import TOKENIZER

LIMITS = Limits(20, 32, default_adapter=AdapterRef("default"))
FIELDS = ("ids", "weights", "merge_strategy", "density", "majority_sign_method")


def merged(*ids: str, **fields: Any) -> MergedRef:
    request = GenerateRequest("x", merged_adapters=MergedAdapters(ids, **fields))
    adapter = validate(request, TOKENIZER, LIMITS).adapter
    assert isinstance(adapter, MergedRef)
    return adapter


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("ids", {"ids": ()}),
        ("ids", {"ids": ("a", "")}),
        ("ids", {"ids": ("a", BASE_MODEL)}),
        ("ids", {"ids": ("a",) * (MAX_PARTS + 1)}),
        ("weights", {"weights": (1.0,)}),
        ("weights", {"weights": (1.0, 2.0, 3.0)}),
        ("weights", {"weights": (1.0, math.nan)}),
        ("weights", {"weights": (1.0, math.inf)}),
        ("merge_strategy", {"merge_strategy": "svd"}),
        ("merge_strategy", {"merge_strategy": ""}),
        ("majority_sign_method", {"majority_sign_method": "Total"}),
        ("density", {"density": -0.5}),
        ("density", {"density": 1.5}),
        ("density", {"density": math.nan}),
        ("density", {"density": 0.0, "merge_strategy": "ties"}),
        ("density", {"density": 0.0, "merge_strategy": "dare_linear"}),
    ],
)
def test_a_wrong_field_is_named(field: str, values: dict[str, Any]) -> None:
    ids = values.pop("ids", ("a", "b"))
    with pytest.raises(InvalidArgument) as caught:
        merged(*ids, **values)
    assert caught.value.field == f"merged_adapters.{field}"


@pytest.mark.parametrize(
    ("others", "field"),
    [
        ({"adapter_id": "c"}, "merged_adapters"),
        ({"adapter_id": BASE_MODEL}, "merged_adapters"),
        ({"adapter_revision": "main"}, "adapter_revision"),
        ({"adapter_source": "ftp"}, "adapter_source"),
    ],
)
def test_what_cannot_be_beside_it(others: dict[str, str], field: str) -> None:
    request = GenerateRequest("x", merged_adapters=MergedAdapters(("a", "b")), **others)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument) as caught:
        validate(request, TOKENIZER, LIMITS)
    assert caught.value.field == field


def test_what_is_left_out_is_filled_in() -> None:
    parts = (AdapterRef("a"), AdapterRef("b"))
    assert merged("a", "b") == MergedRef(parts, (1.0, 1.0), "linear", 1.0, "total")
    ties = merged("a", "b", merge_strategy="ties", weights=(0.7, -0.3))
    assert ties == MergedRef(parts, (0.7, -0.3), "ties", 0.5, "total")


def test_one_adapter_has_one_name() -> None:
    assert merged("a", "b", density=0.0) == merged("a", "b", density=0.3)
    assert merged("a", "b", majority_sign_method="frequency") == merged("a", "b")
    assert merged("a", merge_strategy="ties", density=0.2) == merged("a")
    kept = merged("a", "b", merge_strategy="dare_ties", majority_sign_method="frequency")
    assert kept.majority_sign_method == "frequency"


def test_source_and_token_are_those_of_all_parts() -> None:
    request = GenerateRequest(
        "x",
        adapter_source="hub",
        api_token="secret",
        merged_adapters=MergedAdapters(("a", "b@v1")),
    )
    adapter = validate(request, TOKENIZER, LIMITS).adapter
    assert isinstance(adapter, MergedRef)
    assert adapter.parts == (
        AdapterRef("a", "hub", "", "secret"),
        AdapterRef("b@v1", "hub", "", "secret"),
    )
    assert "secret" not in repr(adapter) and "secret" not in adapter.adapter_id


@given(
    ids=st.lists(st.sampled_from(["a", "demo/b", "c@1"] * 4 + ["", BASE_MODEL]), max_size=18),
    weights=st.just([]) | st.lists(st.floats(width=32), max_size=18),
    merge_strategy=st.sampled_from(
        ["linear", "ties", "dare_ties", "dare_linear"] * 2 + ["", "cat"]
    ),
    density=st.none() | st.floats(width=32) | st.floats(0, 1),
    majority_sign_method=st.sampled_from(["total", "frequency"] * 3 + ["", "most"]),
    adapter_id=st.sampled_from([None, "", "a"]),
)
def test_any_request_is_complete_or_has_one_fault(adapter_id: str | None, **fields: Any) -> None:
    """What passes needs nothing filled in; what does not names a field that is there."""
    values: dict[str, Any] = {}
    for name, value in fields.items():
        values[name] = tuple(value) if isinstance(value, list) else value
    asked = GenerateRequest("x", adapter_id, merged_adapters=MergedAdapters(**values))
    request = wire.request_from_pb(wire.request_to_pb(asked))
    try:
        adapter = validate(request, TOKENIZER, LIMITS).adapter
    except InvalidArgument as error:
        head, _, name = error.field.partition(".")
        assert head == "merged_adapters" and (not name or name in FIELDS)
        return
    assert isinstance(adapter, MergedRef)
    assert 1 <= len(adapter.parts) == len(adapter.weights) <= MAX_PARTS
    assert all(map(math.isfinite, adapter.weights)) and 0 < adapter.density <= 1
    assert adapter.method in {"linear", "ties", "dare_linear", "dare_ties"}
    assert adapter.majority_sign_method in {"total", "frequency"}
    assert not adapter_id
