"""Guesses of ended requests, by adapter: summed, bounded, kept with each version."""

from __future__ import annotations

from pathlib import Path

from lorax_spec.adapters.source import Location
from lorax_spec.adapters.version import Version
from lorax_spec.engine.tally import Tally
from lorax_spec.types import AdapterRef, DrafterCounts

ONE = {"medusa": DrafterCounts(3, 1, (2, 1), (1, 0))}
TWO = {"medusa": DrafterCounts(2, 2, (2,), (2,)), "lookahead": DrafterCounts(1, 0, (1,), (0,))}


def version(adapter_id: str) -> Version:
    return Version(AdapterRef(adapter_id), Location("local", adapter_id, "", Path(), ()), 0)


def test_counts_of_one_adapter_are_summed() -> None:
    tally, held = Tally(), version("a")
    tally.note("a", [held], ONE)
    shown = held.guesses
    tally.note("a", [held], TWO)
    both = DrafterCounts(5, 3, (4, 1), (3, 0))
    assert tally.figures() == {("a", "medusa"): both, ("a", "lookahead"): TWO["lookahead"]}
    assert held.guesses == {"medusa": both, "lookahead": TWO["lookahead"]}
    assert shown == ONE, "what was handed out does not change"


def test_versions_of_one_name_keep_their_own() -> None:
    tally, old, new = Tally(), version("a"), version("a")
    tally.note("a", [old], ONE)
    tally.note("a", [new], TWO)
    assert old.guesses == ONE and new.guesses == TWO


def test_only_the_adapters_used_last_are_remembered() -> None:
    tally = Tally(most=3)
    for adapter_id in ("a", "b", "c", "a", "d"):
        tally.note(adapter_id, [], ONE)
    assert {adapter_id for adapter_id, _ in tally.figures()} == {"a", "c", "d"}
    assert tally.figures()["a", "medusa"].drafted_tokens == 6


def test_requests_without_drafts_push_nobody_out() -> None:
    tally = Tally(most=1)
    tally.note("a", [], ONE)
    tally.note("b", [], {})
    assert {adapter_id for adapter_id, _ in tally.figures()} == {"a"}
