"""What speculation is measured on: the embedded prompts by kind, text where nothing repeats, or a
file of one's own."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorax_spec.bench.workload import Prompt, prompts
from lorax_spec.errors import InvalidArgument
from lorax_spec.text.tokenizer import TextTokenizer

KINDS = ("rename", "edit", "write", "doc", "code", "tests", "prose")
#: Prompts of random tokens, answered so hot that nothing can be guessed.
RANDOM = "random"
_RANDOM_TEMPERATURE, _RANDOM_LENGTHS = 1.5, (48, 160)
#: Of lines that name no kind.
_NAMELESS = "file"
_FIELDS = {"prompt": str, "max_new_tokens": int, "kind": str}


@dataclass(frozen=True)
class Task:
    """A line of a workload file."""

    prompt: str
    max_new_tokens: int | None = None
    kind: str = _NAMELESS


def parse(text: str, name: str = "workload") -> list[Task]:
    """The tasks of JSON lines; empty lines count for nothing.

    Raises InvalidArgument, which names the line, for one that is no task, and for a file of none.
    """
    tasks = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                tasks.append(_task(json.loads(line)))
            except (ValueError, TypeError) as fault:
                raise InvalidArgument(f"{name}, line {number}: {fault}") from None
    if not tasks:
        raise InvalidArgument(f"{name}: no tasks")
    return tasks


def _task(content: Any) -> Task:
    if not isinstance(content, dict) or "prompt" not in content:
        raise ValueError('not an object with a "prompt"')
    for key, value in content.items():
        if key not in _FIELDS:
            raise ValueError(f"unknown field {key}; there are {', '.join(_FIELDS)}")
        if type(value) is not _FIELDS[key]:
            raise TypeError(f"{key} must be of type {_FIELDS[key].__name__}")
    if content.get("max_new_tokens", 1) < 1:
        raise ValueError("max_new_tokens must be at least 1")
    return Task(**content)


def of_file(path: Path, tokenizer: TextTokenizer, new_tokens: int) -> dict[str, list[Prompt]]:
    """Its prompts by kind; ``new_tokens`` where a line does not say."""
    by_kind: dict[str, list[Prompt]] = {}
    for task in parse(path.read_text(encoding="utf-8"), str(path)):
        ids = tuple(tokenizer.encode(task.prompt))
        prompt = Prompt(task.kind, ids, task.max_new_tokens or new_tokens)
        by_kind.setdefault(task.kind, []).append(prompt)
    return by_kind


def embedded_tasks(
    kinds: Sequence[str], count: int, tokenizer: TextTokenizer, new_tokens: int, seed: int
) -> dict[str, list[Prompt]]:
    """At most ``count`` prompts of each kind, which may be RANDOM."""
    found: dict[str, list[Prompt]] = {}
    for kind in kinds:
        if kind == RANDOM:
            found[kind] = random_prompts(count, tokenizer, new_tokens, seed)
        else:
            chosen = dict.fromkeys(prompts((kind,), count, tokenizer))
            found[kind] = [replace(prompt, new_tokens=new_tokens) for prompt in chosen]
    return found


def random_prompts(
    count: int, tokenizer: TextTokenizer, new_tokens: int, seed: int
) -> list[Prompt]:
    """No token comes twice in a prompt; the end token ends nothing."""
    draw = random.Random(seed)
    ordinary = sorted({*range(tokenizer.vocab_size)} - tokenizer.special_token_ids)
    return [
        Prompt(
            RANDOM,
            tuple(draw.sample(ordinary, draw.randint(*_RANDOM_LENGTHS))),
            new_tokens,
            ignore_end=True,
            temperature=_RANDOM_TEMPERATURE,
        )
        for _ in range(count)
    ]


def check_kinds(kinds: Sequence[str], known: Sequence[str]) -> None:
    """Raises InvalidArgument for a workload that there is not."""
    if unknown := set(kinds) - set(known):
        there_are = ", ".join(known)
        raise InvalidArgument(f"no workload {', '.join(sorted(unknown))}; there are {there_are}")
