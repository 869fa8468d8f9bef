"""The best-first tree against a chain and against the best static tree of its size.

Static trees are chosen by what heads got right on every other prompt, and all are compared on the
prompts between.  Chains and static trees are served as adapters bring them: ``medusa_choices`` in
a copy of the heads' folder.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import geometric_mean

from lorax_spec import embedded
from lorax_spec.bench.counting import Counted, count, together
from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.bench.head_ranks import RankProbe, probing, ranks_of
from lorax_spec.bench.report import Check, Report, Value
from lorax_spec.bench.settings import Settings
from lorax_spec.bench.static_trees import Ranks, best_static
from lorax_spec.bench.subject import Opened, Subject
from lorax_spec.bench.workload import Prompt, prompts
from lorax_spec.types import Method, Speculation

_KINDS = ("rename", "edit", "write", "doc", "code", "prose")
_TEMPERATURES = (0.0, 0.8)
_NODES = 16
_MORE_THAN_CHAIN = 1.2
_CHAIN, _TREE, _OWN, _COMMON = "chain", "tree", "static", "static for all"

#: Trees by heads, temperature and workload ("" for that of all workloads).
_Trees = dict[tuple[str, float, str], list[Ranks]]
_Found = dict[tuple[str, float, str], dict[str, Counted]]


def measure(settings: Settings) -> Report:
    each = settings.count(24, 4)
    subject = Subject()
    jobs = [(h, t, kind) for h in subject.heads() for t in _TEMPERATURES for kind in _KINDS]
    probes: dict[str, RankProbe] = {}
    trees: _Trees = {}
    with subject.open(probing(probes)) as opened:
        ranks: dict[tuple[str, float, str], list[list[Ranks]]] = {}
        for heads, temperature, kind in settings.track(jobs, len(jobs), "ranks"):
            side = opened.side(heads, 1, temperature)
            asked = _distinct(opened, kind, each)[::2]
            ranks[heads, temperature, kind] = ranks_of(probes[heads], side, asked)
            trees[heads, temperature, kind] = _static(ranks[heads, temperature, kind])
    for heads in subject.heads():
        for temperature in _TEMPERATURES:
            every = [text for kind in _KINDS for text in ranks[heads, temperature, kind]]
            trees[heads, temperature, ""] = _static(every)
    found: _Found = {}
    with tempfile.TemporaryDirectory() as folder:
        _write_trees(Path(folder), trees)
        with replace(subject, adapter_root=Path(folder)).open() as opened:
            for heads, temperature, kind in settings.track(jobs, len(jobs), "trees"):
                asked = _distinct(opened, kind, each)[1::2]
                found[heads, temperature, kind] = {
                    name: count(side, asked)
                    for name, side in _sides(opened, heads, temperature, kind)
                }
    return _report(found, trees)


def _distinct(opened: Opened, kind: str, most: int) -> list[Prompt]:
    """At most so many prompts, none twice: the halves must not meet."""
    return list(dict.fromkeys(prompts((kind,), most, opened.tokenizer)))


def _static(texts: Sequence[Sequence[Ranks]]) -> list[Ranks]:
    """The best tree; one guess where no text was worth counting."""
    return best_static(texts, _NODES) or [(0,)]


def _sides(
    opened: Opened, heads: str, temperature: float, kind: str
) -> Iterator[tuple[str, EngineSide]]:
    tree = opened.side(heads, _NODES, temperature)
    yield _TREE, tree
    for name, adapter in (
        (_CHAIN, f"{heads}-chain"),
        (_OWN, _named(heads, temperature, kind)),
        (_COMMON, _named(heads, temperature, "")),
    ):
        yield name, replace(tree, speculation=Speculation(Method.MEDUSA, _NODES, adapter))


def _named(heads: str, temperature: float, kind: str) -> str:
    return f"{heads}-{temperature:g}-{kind or 'all'}"


def _write_trees(root: Path, trees: _Trees) -> None:
    """A copy of its heads for each tree, and for a chain."""
    for heads in {heads for heads, _, _ in trees}:
        own = embedded.path() / "adapters" / heads
        config = json.loads((own / "config.json").read_text())
        depth = next(config[key] for key in config if key.endswith("_num_heads"))
        _copy(own, root / f"{heads}-chain", [(0,) * (level + 1) for level in range(depth)])
    for (heads, temperature, kind), tree in trees.items():
        own = embedded.path() / "adapters" / heads
        _copy(own, root / _named(heads, temperature, kind), tree)


def _copy(source: Path, target: Path, tree: Sequence[Ranks]) -> None:
    shutil.copytree(source, target)
    path = target / "config.json"
    config = json.loads(path.read_text()) | {"medusa_choices": [list(one) for one in tree]}
    path.write_text(json.dumps(config))


def _report(found: _Found, trees: _Trees) -> Report:
    rows: list[dict[str, Value]] = []
    checks: list[Check] = []
    for heads in dict.fromkeys(heads for heads, _, _ in found):
        for temperature in _TEMPERATURES:
            of = {kind: found[heads, temperature, kind] for kind in _KINDS}
            names = (_CHAIN, _TREE, _OWN, _COMMON)
            every = {name: together([of[kind][name] for kind in _KINDS]) for name in names}
            rows += [
                _row(heads, temperature, kind, one) for kind, one in {**of, "in all": every}.items()
            ]
            where = f"{heads}, temperature {temperature:g}"
            alike = geometric_mean(_by(one, _CHAIN) for one in of.values())
            for label, value in (
                ("answers in all", _by(every, _CHAIN)),
                ("workloads alike", alike),
            ):
                what = f"tree by chain, {label}, {where}"
                checks.append(Check(what, value, _MORE_THAN_CHAIN, "x"))
            for rival in (_OWN, _COMMON):
                label = "each workload's best static tree" if rival == _OWN else "one static tree"
                checks.append(Check(f"tree by {label}, {where}", _by(every, rival), 1.0, "x"))
    differing = sum(
        one.texts != each[_TREE].texts for each in found.values() for one in each.values()
    )
    checks.append(Check("workloads whose texts a tree changed", differing, 0, at_most=True))
    return Report(
        f"tokens per forward pass, {_NODES} nodes: chain, best-first tree, best static trees",
        rows,
        checks,
        [
            "Static trees are chosen on every other prompt, all are compared on those between; "
            "the chain has as many nodes as there are heads.  Counts, on answers that do not loop."
        ],
        {"static_trees": {"/".join(map(str, key)): tree for key, tree in trees.items()}},
    )


def _by(counted: dict[str, Counted], rival: str) -> float:
    return counted[_TREE].tokens.value / counted[rival].tokens.value


def _row(
    heads: str, temperature: float, kind: str, counted: dict[str, Counted]
) -> dict[str, Value]:
    return {
        "heads": heads,
        "T": temperature,
        "workload": kind,
        **{name: counted[name].tokens for name in (_CHAIN, _TREE, _OWN, _COMMON)},
        "tree/chain": _by(counted, _CHAIN),
        "tree/static": _by(counted, _OWN),
        "tree/for all": _by(counted, _COMMON),
        "answers": len(counted[_TREE].answers),
        "looped": counted[_TREE].left_out,
    }
