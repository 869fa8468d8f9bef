"""Who imports whom, read from the source; nothing is run."""

from __future__ import annotations

import ast
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "lorax_spec"

#: Source by module name; a package goes by its own name.
Sources = Mapping[str, str]

#: What each room may import of ours beside itself: rooms, or single modules of one.  DESIGN,
#: section 3; the package's ``__init__`` names things of all rooms and imports them when used.
ALLOWED: Mapping[str, frozenset[str]] = {
    room: frozenset(allowed.split())
    for room, allowed in {
        "types": "",
        "errors": "",
        "config": "types errors",
        "v1": "",
        "tracing": "",
        "kernels": "",
        "adapters": "kernels types errors",
        "speculation": "kernels adapters.weights types errors",
        "text": "engine.request types errors",
        "wire": "engine.request types errors v1",
        "engine": "adapters kernels speculation text embedded types errors",
        "worker": "engine wire types errors v1 tracing",
        "router": "engine.request text wire types errors v1 tracing",
        "client": "wire types errors v1",
        "embedded": "",
        "embedded.recipe": "embedded speculation train",
        "train": "embedded kernels speculation types errors",
        "bench": "adapters kernels engine speculation text train embedded worker types errors v1",
    }.items()
}
#: May import every room, and no other room imports it.
TOP = "cli"


@dataclass(frozen=True)
class Import:
    """``lazy``: inside a function.  Imports for type checkers alone are none."""

    importer: str
    target: str
    line: int
    lazy: bool


def read_sources(root: Path) -> Sources:
    """Every module of the package at ``root``, through its links."""
    sources = {}
    for folder, _, files in os.walk(root / PACKAGE, followlinks=True):
        for file in files:
            if file.endswith(".py"):
                path = Path(folder, file)
                parts = path.relative_to(root).with_suffix("").parts
                name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                sources[name] = path.read_text()
    return sources


def imports(sources: Sources) -> list[Import]:
    """All imports.  ``from package import module`` counts as importing the module, and what comes
    from our own package itself by its name there."""
    found = []
    for importer, source in sources.items():
        for node, lazy in _statements(ast.parse(source).body, lazy=False):
            found += [
                Import(importer, target, node.lineno, lazy) for target in _targets(node, sources)
            ]
    return found


def _statements(
    nodes: Iterable[ast.AST], lazy: bool
) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, lazy
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _statements(node.orelse, lazy)
        else:
            deeper = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _statements(ast.iter_child_nodes(node), deeper)


def _targets(node: ast.Import | ast.ImportFrom, sources: Sources) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    origin = "." * node.level + (node.module or "")
    for alias in node.names:
        name = f"{origin}.{alias.name}"
        yield name if name in sources or origin == PACKAGE else origin


def violations(sources: Sources) -> list[str]:
    """Imports that run uphill, as sentences."""
    return [
        f"{each.importer}:{each.line} imports {each.target}"
        for each in imports(sources)
        if _ours(each.target) and not _may(each)
    ]


def _ours(module: str) -> bool:
    return module.split(".")[0] in (PACKAGE, "")


def _may(each: Import) -> bool:
    importer, target = _room(each.importer), _room(each.target)
    if each.importer == PACKAGE or importer in (TOP, target) or target == "__version__":
        return not each.target.startswith(".")
    allowed = ALLOWED.get(importer, frozenset())
    return target in allowed or each.target.removeprefix(f"{PACKAGE}.") in allowed


def _room(module: str) -> str:
    """The room a module lies in; a room within a room counts for itself."""
    parts = f"{module}..".split(".")[1:3]
    within = ".".join(parts)
    return within if within in ALLOWED else parts[0]


def reached(sources: Sources, rooms: Collection[str], lazy: bool) -> dict[str, tuple[str, ...]]:
    """Packages of others that importing ``rooms`` would load, each with the way to it.

    Importing a module runs the packages it lies in.  ``lazy``: go through functions too.
    """
    following: dict[str, list[str]] = {}
    for each in imports(sources):
        if lazy or not each.lazy:
            following.setdefault(each.importer, []).append(each.target)
    ways = {name: (name,) for name in sources if _room(name) in rooms}
    others: dict[str, tuple[str, ...]] = {}
    waiting = list(ways)
    while waiting:
        name = waiting.pop()
        parents = [name.rpartition(".")[0]] if "." in name else []
        for target in following.get(name, []) + parents:
            way = (*ways[name], target)
            if not _ours(target):
                others.setdefault(target.split(".")[0], way)
            elif target not in ways:
                ways[target] = way
                waiting.append(target)
    return others
