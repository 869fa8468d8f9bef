"""Prints what extras of our pyproject.toml need, one requirement a line.

pip installs a package with its requirements or without, but not the requirements alone.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extras: list[str]) -> Iterator[str]:
    """Of the package itself and of ``extras``, with the extras that these name."""
    yield from project["dependencies"]
    own = re.compile(re.escape(project["name"]) + r"\[(.*)\]")
    for extra in extras:
        for requirement in project["optional-dependencies"][extra]:
            if named := own.fullmatch(requirement):
                yield from requirements(project, named[1].split(","))
            else:
                yield requirement


if __name__ == "__main__":
    document = tomllib.loads(Path("pyproject.toml").read_text())
    print(*sorted(set(requirements(document["project"], sys.argv[1:]))), sep="\n")
