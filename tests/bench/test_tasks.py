"""Workload files, and prompts in which nothing can be guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorax_spec import embedded
from lorax_spec.bench.tasks import RANDOM, Task, embedded_tasks, of_file, parse
from lorax_spec.errors import InvalidArgument
from lorax_spec.text.tokenizer import TextTokenizer


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.load(embedded.path() / "base")


def test_a_line_is_a_task() -> None:
    text = '{"prompt": "a"}\n\n{"prompt": "b", "max_new_tokens": 5, "kind": "edit"}\n'
    assert parse(text) == [Task("a"), Task("b", 5, "edit")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2"),
        ("[1]", 'not an object with a "prompt"'),
        ('{"max_new_tokens": 3}', 'not an object with a "prompt"'),
        ('{"prompt": 3}', "prompt must be of type str"),
        ('{"prompt": "a", "max_new_tokens": true}', "max_new_tokens must be of type int"),
        ('{"prompt": "a", "max_new_tokens": 0}', "at least 1"),
        ('{"prompt": "a", "temperature": 1}', "unknown field temperature"),
    ],
)
def test_a_bad_line_is_named(line: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=r"mine, line 2") as fault:
        parse('{"prompt": "a"}\n' + line, "mine")
    assert said in fault.value.message


def test_a_file_without_tasks_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="no tasks"):
        parse("\n\n")


def test_a_file_gives_prompts_by_kind(tmp_path: Path, tokenizer: TextTokenizer) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"prompt": "def f():", "kind": "a"}\n{"prompt": "x", "max_new_tokens": 3, "kind": "b"}\n'
        '{"prompt": "y", "kind": "a"}\n'
    )
    found = of_file(path, tokenizer, 40)
    assert {kind: [p.new_tokens for p in prompts] for kind, prompts in found.items()} == {
        "a": [40, 40],
        "b": [3],
    }
    assert found["a"][0].ids == tuple(tokenizer.encode("def f():"))


def test_random_prompts_repeat_nothing_and_do_not_end(tokenizer: TextTokenizer) -> None:
    found = embedded_tasks((RANDOM, "prose"), 5, tokenizer, 9, seed=1)
    assert len(found[RANDOM]) == len(found["prose"]) == 5
    for prompt in found[RANDOM]:
        assert len({*prompt.ids}) == len(prompt.ids)
        assert not {*prompt.ids} & tokenizer.special_token_ids
        assert prompt.ignore_end
        assert (prompt.temperature or 0) > 1
    assert all(prompt.new_tokens == 9 for prompts in found.values() for prompt in prompts)
    assert found == embedded_tasks((RANDOM, "prose"), 5, tokenizer, 9, seed=1)
    assert found != embedded_tasks((RANDOM, "prose"), 5, tokenizer, 9, seed=2)
