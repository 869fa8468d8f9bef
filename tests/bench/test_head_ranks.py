"""Ranks foretell what the engine does with a static tree made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorax_spec.bench.counting import answers
from lorax_spec.bench.coupled import plain_line_up
from lorax_spec.bench.head_ranks import RankProbe, probing, ranks_of
from lorax_spec.bench.static_trees import Ranks, best_static, visits
from lorax_spec.bench.subject import Subject
from lorax_spec.bench.tasks import embedded_tasks
from lorax_spec.bench.trees import _copy
from lorax_spec.bench.workload import worth_counting
from lorax_spec.embedded import path
from lorax_spec.types import Method, Speculation

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_tree_takes_the_passes_that_ranks_foretell(tmp_path: Path, temperature: float) -> None:
    """The engine drafts along other places than the probe, and takes just as many passes."""
    probes: dict[str, RankProbe] = {}
    trees: dict[str, list[Ranks]] = {}
    foretold: dict[str, list[int]] = {}
    with Subject().open(probing(probes)) as opened:
        asked = embedded_tasks(("rename",), 4, opened.tokenizer, 48, seed=0)["rename"]
        for heads, probe in probes.items():
            if heads in opened.heads:
                ranks = ranks_of(probe, opened.side(heads, 1, temperature), asked)
                trees[heads] = best_static(ranks, 12)
                foretold[heads] = [len(visits(text, trees[heads])) for text in ranks]
                _copy(path() / "adapters" / heads, tmp_path / f"{heads}-best", trees[heads])
    assert set(trees) == set(Subject().heads())
    with Subject(adapter_root=tmp_path).open() as opened:
        for heads in trees:
            side = opened.side(heads, 12, temperature)
            side = type(side)(
                side.core, Speculation(Method.MEDUSA, 12, f"{heads}-best"), temperature=temperature
            )
            found = [one for one in answers(side, asked) if worth_counting(one.tokens)]
            assert [one.speculation.forward_passes - 1 for one in found] == foretold[heads]
            assert sum(foretold[heads]) < 0.7 * sum(len(one.tokens) - 1 for one in found)


def test_plain_ranking_changes_drafts_and_no_text() -> None:
    texts, passes = [], []
    for line_up in ({}, {"line_up": plain_line_up}):
        with Subject().open(**line_up) as opened:
            asked = embedded_tasks(("doc",), 4, opened.tokenizer, 48, seed=0)["doc"]
            found = answers(opened.side(next(iter(opened.heads)), 16, 0.8), asked)
            texts.append([one.tokens for one in found])
            passes.append(sum(one.speculation.forward_passes for one in found))
    assert texts[0] == texts[1]
    assert passes[0] < passes[1]
