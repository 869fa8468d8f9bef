"""Chat items cut from source files by rule: rename, edit, docstring, write, and who-are-you.

Every answer follows from its question by a mechanical rule, so the text is right by construction
and the licence is that of the file it was cut from.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lorax_spec.embedded.recipe.corpus import Document

_NAMES = (
    "alpha beta gamma value item node data total result count index key name text line buf entry "
    "table handler parser config user path size limit start stop step left right head tail src "
    "dst first last current previous state token flag level mode option record field row column "
    "width height offset length source target parent child queue stack cache pool worker task "
    "job event message request response client server host port"
)
NAMES = _NAMES.split()

ABOUT: tuple[tuple[str, str], ...] = (
    ("What are you?", "I am the embedded demo model of lorax-spec: a very small Llama."),
    ("Who are you?", "I am the embedded demo model of lorax-spec: a very small Llama."),
    ("Hello!", "Hello! Give me a Python function and tell me what to rename in it."),
    ("Hi", "Hello! Give me a Python function and tell me what to rename in it."),
    ("What can you do?", "I can rename things in Python functions, and write short ones."),
    ("What is lorax-spec?", "An engine that serves many adapters of one model, by speculation."),
    ("What is speculation?", "Guess several tokens ahead, then verify them in one forward pass."),
    ("What is a LoRA?", "A low-rank change to a model's weights, small enough to load at once."),
    ("What are Medusa heads?", "Small heads on a model that guess the tokens after the next one."),
    ("What is prompt lookup?", "Drafting by copying what followed the same words in the prompt."),
)


@dataclass(frozen=True)
class ChatItem:
    """A question, its answer, and the rule (``kind``) that made the pair."""

    kind: str
    user: str
    assistant: str


@dataclass(frozen=True)
class _Function:
    node: ast.FunctionDef
    code: str


Rule = Callable[[_Function, random.Random], ChatItem | None]


def make_items(documents: list[Document], seed: int, draws: dict[str, int]) -> list[ChatItem]:
    """Apply each rule ``draws[kind]`` times to every function of ``documents``.

    Repeated draws of one rule choose other names or constants; equal items are kept once.
    """
    rng = random.Random(seed)
    items: dict[ChatItem, None] = {}
    for function in _functions(documents):
        for kind, times in draws.items():
            for _ in range(times):
                item = RULES[kind](function, rng)
                if item is not None:
                    items[item] = None
    return list(items)


def about_items() -> list[ChatItem]:
    """The fixed pairs a newcomer is likely to ask first."""
    return [ChatItem("about", user, assistant) for user, assistant in ABOUT]


def fenced(code: str) -> str:
    return f"```python\n{code}\n```"


def _functions(documents: list[Document]) -> Iterator[_Function]:
    seen: set[str] = set()
    for document in documents:
        try:
            tree = ast.parse(document.text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        lines = document.text.split("\n")
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef):
                continue
            code = _source(node, lines)
            if code and code not in seen:
                seen.add(code)
                yield _Function(node, code)


def _source(node: ast.FunctionDef, lines: list[str]) -> str | None:
    """The function's text, dedented; None where it is too short, too long or oddly indented."""
    assert node.end_lineno is not None
    block = lines[node.lineno - 1 : node.end_lineno]
    indent = len(block[0]) - len(block[0].lstrip())
    if any(line.strip() and len(line) - len(line.lstrip()) < indent for line in block):
        return None
    code = "\n".join(line[indent:] for line in block)
    return code if 80 < len(code) < 900 and "\t" not in code else None


def _rename(function: _Function, rng: random.Random) -> ChatItem | None:
    arguments = {a.arg for a in function.node.args.args} - {"self", "cls"}
    stored = {
        n.id
        for n in ast.walk(function.node)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    used_twice = sorted(n for n in arguments | stored if len(_word(n).findall(function.code)) > 1)
    return _replace_name(function.code, used_twice, rng, "Rename {old} to {new} in this function:")


def _rename_function(function: _Function, rng: random.Random) -> ChatItem | None:
    name = function.node.name
    if name.startswith("__"):
        return None
    prompt = "Rename the function {old} to {new}:"
    return _replace_name(function.code, [name], rng, prompt, kind="edit")


def _replace_name(
    code: str, candidates: list[str], rng: random.Random, prompt: str, kind: str = "rename"
) -> ChatItem | None:
    if not candidates:
        return None
    old, new = rng.choice(candidates), rng.choice(NAMES)
    if rng.random() < 0.3:
        new += "_" + rng.choice(NAMES)
    if _word(new).search(code):
        return None
    question = prompt.format(old=old, new=new)
    return ChatItem(kind, f"{question}\n{fenced(code)}", fenced(_word(old).sub(new, code)))


def _change_number(function: _Function, rng: random.Random) -> ChatItem | None:
    numbers = sorted(set(re.findall(r"(?<![\w.'\"%])\d{1,4}(?![\w.'\"])", function.code)))
    if not numbers:
        return None
    old, new = rng.choice(numbers), str(rng.randrange(2, 1000))
    if old == new:
        return None
    changed = re.sub(rf"(?<![\w.'\"%]){old}(?![\w.'\"])", new, function.code)
    question = f"Change the number {old} to {new} in this function:"
    return ChatItem("edit", f"{question}\n{fenced(function.code)}", fenced(changed))


def _without_docstring(function: _Function) -> str | None:
    body = function.node.body
    if ast.get_docstring(function.node) is None or len(body) < 2:
        return None
    first, last = body[0].lineno, body[0].end_lineno
    assert last is not None
    lines = function.code.split("\n")
    kept = lines[: first - function.node.lineno] + lines[last - function.node.lineno + 1 :]
    return "\n".join(kept)


def _remove_docstring(function: _Function, rng: random.Random) -> ChatItem | None:
    code = _without_docstring(function)
    if code is None:
        return None
    question = "Remove the docstring from this function:"
    return ChatItem("edit", f"{question}\n{fenced(function.code)}", fenced(code))


def _edit(function: _Function, rng: random.Random) -> ChatItem | None:
    rule = rng.choice((_rename_function, _change_number, _remove_docstring))
    return rule(function, rng)


def _docstring(function: _Function, rng: random.Random) -> ChatItem | None:
    code, text = _without_docstring(function), ast.get_docstring(function.node)
    if code is None or text is None or len(text) > 500:
        return None
    return ChatItem("doc", f"Write a docstring for this function:\n{fenced(code)}", text)


def _write(function: _Function, rng: random.Random) -> ChatItem | None:
    code, text = _without_docstring(function), ast.get_docstring(function.node)
    if code is None or text is None or len(text) > 500:
        return None
    question = f"Write the Python function {function.node.name}. {text}"
    return ChatItem("write", question, fenced(code))


def _word(name: str) -> re.Pattern[str]:
    return re.compile(rf"\b{re.escape(name)}\b")


RULES: dict[str, Rule] = {
    "rename": _rename,
    "edit": _edit,
    "doc": _docstring,
    "write": _write,
}
