"""The embedded bundle: a small, really trained Llama with adapters, for demos, tests and benches.

``recipe`` holds the scripts that made it; ``MODEL_CARD.md`` says what it is and is not.
"""

from __future__ import annotations

import json
from pathlib import Path

#: The name under which the adapters' configs know the embedded base model.
BASE_ID = "lorax-spec/embedded"


def path() -> Path:
    """The bundle's folder: ``base/``, ``adapters/<name>/``, ``workloads.json``, the model card."""
    return Path(__file__).resolve().parent


def draft_path() -> Path:
    """A sixth of the base's size, with its tokenizer: for ``--draft-model-id``."""
    return path() / "draft"


def adapter_names() -> tuple[str, ...]:
    """Names of the shipped adapters, sorted; ``demo/<name>`` on the wire."""
    return tuple(sorted(p.name for p in (path() / "adapters").glob("*") if p.is_dir()))


def workloads() -> dict[str, list[dict[str, str]]]:
    """Held-out prompts by kind: rename, edit, doc, write, code, tests, prose.

    Each holds ``prompt``, with the chat template applied where it is a question, and for the
    first four kinds ``reference``, the answer that the rule gives.
    """
    text = (path() / "workloads.json").read_text(encoding="utf-8")
    loaded: dict[str, list[dict[str, str]]] = json.loads(text)
    return loaded
