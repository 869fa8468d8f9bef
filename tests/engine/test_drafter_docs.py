"""The drafter of docs/drafters.md, at work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lorax_spec.engine.request import Finished
from lorax_spec.types import Method
from tests.engine.conftest import NewRequest
from tests.engine.drafting_loop import run, sure_of
from tests.engine.sequences import sequence

PAGE = Path(__file__).parents[2] / "docs" / "drafters.md"


def example(*, count: int) -> dict[str, Any]:
    """What the page's first ``count`` examples define."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    names: dict[str, Any] = {"__name__": "docs"}
    for block in blocks[:count]:
        exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_drafter_guesses_what_it_says() -> None:
    """A verse of twenty different tokens, again and again: from its second time on, all of it."""
    drafter = example(count=1)["Echo"]()
    verse = list(range(20))
    one = sequence(verse[:5], 195)
    result = run(drafter, one, lambda tokens: sure_of(verse[len(tokens) % 20], 30), 4)
    assert one.tokens == verse * 10
    assert result.steps[20:-1] == [5] * (len(result.steps) - 21)
    assert drafter._after == drafter._read == {}


def test_it_runs_in_an_engine(
    prompts: dict[str, list[tuple[int, ...]]], new_request: NewRequest
) -> None:
    core = example(count=2)["core"]
    for request in (
        new_request(prompts["rename"][0], 30, Method.LOOKAHEAD, 3),
        new_request(prompts["rename"][1], 30, Method.LOOKAHEAD),
    ):
        core.submit(request)
    ended: dict[int, Finished] = {}
    while len(ended) < 2:
        ended |= {e.request_id: e for e in core.step() if isinstance(e, Finished)}
    core.close()
    counts = min(ended.items())[1].speculation.drafters
    assert set(counts) == {"lookahead"}
    assert counts["lookahead"].accepted_tokens > 0
