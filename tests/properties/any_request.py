"""Requests of every kind that the embedded model serves."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from lorax_spec import embedded
from lorax_spec.errors import InvalidArgument
from lorax_spec.types import (
    BASE_MODEL,
    GenerateRequest,
    Method,
    Parameters,
    ResponseFormat,
    Speculation,
)
from tests.properties.grammars import constraint, formats

#: An adapter, and the adapter that it borrows its heads from.
PLAIN = [(BASE_MODEL, None), ("demo/pirate", None), ("demo/tests", None)]
HEADED = [
    ("demo/medusa", None),
    ("demo/medusa-v1", None),
    ("demo/tests-medusa", None),
    ("demo/pirate", "demo/pirate-medusa"),
    ("demo/tests", "demo/medusa-v1"),
    ("demo/hydra", None),
    ("demo/pirate", "demo/hydra"),
    ("demo/medusa", "demo/hydra"),
]
KINDS = ["rename", "edit", "code", "doc", "tests", "prose"]
_FILTERS = {
    "top_k": st.integers(1, 50),
    "top_p": st.floats(0.1, 1.0),
    "typical_p": st.floats(0.2, 1.0),
    "min_p": st.floats(0.0, 0.3),
}
#: What makes a token depend on all before it, and so on those of the draft.
_PENALTIES = {
    "repetition_penalty": st.floats(0.8, 1.5),
    "frequency_penalty": st.floats(-0.5, 1.0),
    "presence_penalty": st.floats(-0.5, 1.0),
}
_EXTRAS = {
    "logit_bias": st.dictionaries(st.integers(4, 4000), st.floats(-5, 5), max_size=3),
    "stop": st.lists(st.sampled_from(["\n\n", "self", "return", ")"]), max_size=2).map(tuple),
    "return_k_alternatives": st.integers(1, 4),
    "decoder_input_details": st.just(True),
    "ignore_eos_token": st.just(True),
}


def _compiles(wanted: ResponseFormat) -> bool:
    try:
        constraint(wanted)
    except InvalidArgument:
        return False
    return True


_any_format = st.one_of(formats().filter(_compiles), st.just(ResponseFormat("json_object")))


def _some(
    options: dict[str, st.SearchStrategy[Any]], most: int
) -> st.SearchStrategy[dict[str, Any]]:
    """At most so many of the options."""
    names = st.sets(st.sampled_from(sorted(options)), max_size=most)
    return names.flatmap(
        lambda chosen: st.fixed_dictionaries({name: options[name] for name in sorted(chosen)})
    )


@st.composite
def _parameters(draw: st.DrawFn) -> Parameters:
    sampled, constrained = draw(st.booleans()), draw(st.integers(0, 3)) == 0
    chosen = {
        **draw(_some(_PENALTIES, 3)),
        **draw(_some(_EXTRAS, 2)),
        **(draw(_some(_FILTERS, 2)) if sampled else {}),
    }
    return Parameters(
        max_new_tokens=draw(st.sampled_from([1, 12, 40])),
        temperature=draw(st.floats(0.3, 1.5)) if sampled else 0.0,
        seed=draw(st.integers(0, 2**64 - 1)) if sampled else None,
        best_of=draw(st.sampled_from([None, None, None, 2, 3])) if sampled else None,
        truncate=draw(st.sampled_from([None, None, 30])),
        response_format=draw(_any_format) if constrained else None,
        **chosen,
    )


@st.composite
def requests(draw: st.DrawFn) -> GenerateRequest:
    """Any adapter, drafters, parameters and format; NONE among the methods."""
    workloads = embedded.workloads()
    item = draw(st.sampled_from(workloads[draw(st.sampled_from(KINDS))]))
    other = draw(st.sampled_from(workloads["rename"]))["reference"]
    method = draw(st.sampled_from([*Method, Method.AUTO, Method.AUTO]))
    adapter, heads = draw(st.sampled_from(HEADED if method is Method.MEDUSA else PLAIN + HEADED))
    return GenerateRequest(
        inputs=item["prompt"],
        adapter_id=adapter,
        parameters=draw(_parameters()),
        speculation=Speculation(
            method,
            draw(st.none() | st.integers(0, 40)),
            heads,
            draw(st.sampled_from([None, item["prompt"], item.get("reference"), other])),
        ),
    )
