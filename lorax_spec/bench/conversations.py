"""Second turns of conversations: what the first one answered is changed once more.

The whole conversation is the prompt: a function, its first change, and the request to change the
answer again, which quotes it.  So the same lines stand there in several versions, and the newest
is the one to go on from.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from lorax_spec.bench.workload import ANSWER_TOKENS, Prompt
from lorax_spec.text.tokenizer import TextTokenizer

SECOND_TURN = "second turn"
_FIRST_TURNS = ("rename", "edit")
_BEGIN, _END = "```python\n", "\n```"
_TURN = "{before}{answer}<|im_end|>\n<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
_NEW_NAMES = ("total_count", "buffer", "node_item", "value_map")


def second_turns(
    workloads: Mapping[str, list[dict[str, str]]], tokenizer: TextTokenizer
) -> list[Prompt]:
    """Of every conversation whose first answer has a name of its own left to change."""
    found: list[Prompt] = []
    for kind in _FIRST_TURNS:
        for item in workloads[kind]:
            code = item["reference"].strip().removeprefix(_BEGIN).removesuffix(_END)
            first_asked, _, _ = item["prompt"].partition(_BEGIN)
            old = next((name for name in own_names(code) if name not in first_asked), None)
            if old is None:
                continue
            new = _NEW_NAMES[len(found) % len(_NEW_NAMES)]
            asked = f"Rename {old} to {new} in this function:\n{_BEGIN}{code}{_END}"
            text = _TURN.format(before=item["prompt"], answer=item["reference"], asked=asked)
            found.append(Prompt(SECOND_TURN, tuple(tokenizer.encode(text)), ANSWER_TOKENS))
    return found


def own_names(code: str) -> list[str]:
    """Arguments and variables of the function that ``code`` is; none where it is something else."""
    try:
        function = ast.parse(code).body[0]
    except (SyntaxError, IndexError):
        return []
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    arguments = [one.arg for one in function.args.args if one.arg not in ("self", "cls")]
    stored = [
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    return list(dict.fromkeys(arguments + stored))
