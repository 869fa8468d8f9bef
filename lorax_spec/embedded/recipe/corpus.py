"""The training text: which files, which are held out, and under which licence.

The base corpus is the standard library of the CPython that runs the recipe (without its tests),
the language reference carried in ``pydoc_data.topics``, and a few permissively licensed packages
that the recipe's own environment holds.  CPython's test suite stays out of the base corpus: it is
the domain of the ``tests`` adapter.

Files are held out by a hash of their path, so every stage of the recipe agrees on the split.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_PERCENT = 5

#: Packages whose ``.py`` files join the base corpus, with the licence each is published under.
PERMISSIVE_PACKAGES: dict[str, str] = {
    "numpy": "BSD-3-Clause",
    "scipy": "BSD-3-Clause",
    "sympy": "BSD-3-Clause",
    "networkx": "BSD-3-Clause",
    "torch": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
    "click": "BSD-3-Clause",
    "fsspec": "BSD-3-Clause",
    "rich": "MIT",
    "typer": "MIT",
    "pydantic": "MIT",
    "pytest": "MIT",
    "_pytest": "MIT",
    "accelerate": "Apache-2.0",
    "peft": "Apache-2.0",
    "huggingface_hub": "Apache-2.0",
}

_SKIPPED_STDLIB = {"site-packages", "encodings", "pydoc_data", "__pycache__", "lib-dynload"}
_TEST_PATH = re.compile(r"(^|/)(test|tests|idle_test)(/|$)|(^|/)test_[^/]*\.py$")


@dataclass(frozen=True)
class Document:
    """One source file or topic; ``path`` is relative and names it in the split."""

    path: str
    text: str

    @property
    def held_out(self) -> bool:
        digest = hashlib.md5(self.path.encode(), usedforsecurity=False).hexdigest()
        return int(digest, 16) % 100 < HELD_OUT_PERCENT


@dataclass(frozen=True)
class Corpus:
    """Documents by domain: ``stdlib``, ``tests``, ``topics``, ``packages``."""

    domains: dict[str, list[Document]]

    def train(self, domain: str) -> list[Document]:
        return [document for document in self.domains[domain] if not document.held_out]

    def held_out(self, domain: str) -> list[Document]:
        return [document for document in self.domains[domain] if document.held_out]


def load_corpus() -> Corpus:
    """Read everything the recipe trains on from this Python and its site-packages."""
    library = list(_standard_library())
    return Corpus(
        {
            "stdlib": [d for d in library if not _TEST_PATH.search(d.path)],
            "tests": [d for d in library if _TEST_PATH.search(d.path)],
            "topics": list(_topics()),
            "packages": list(_packages()),
        }
    )


def _standard_library() -> Iterator[Document]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root).as_posix()
        first = relative.split("/")[0]
        if first in _SKIPPED_STDLIB or first.startswith("config-"):
            continue
        if "_vendor" in relative or path.name.startswith("_sysconfigdata"):
            continue
        yield from _read(path, relative)


def _topics() -> Iterator[Document]:
    root = Path(sysconfig.get_paths()["stdlib"])
    spec = importlib.util.spec_from_file_location("topics", root / "pydoc_data" / "topics.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"this Python carries no pydoc topics below {root}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in sorted(module.topics.items()):
        yield Document(name, text)


def _packages() -> Iterator[Document]:
    root = Path(sysconfig.get_paths()["purelib"])
    for package in PERMISSIVE_PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            relative = path.relative_to(root).as_posix()
            generated = "_vendor" in relative or path.stat().st_size > 150_000
            if not generated and not _TEST_PATH.search(relative):
                yield from _read(path, relative)


def _read(path: Path, name: str) -> Iterator[Document]:
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return
    if text.strip():
        yield Document(name, text)
