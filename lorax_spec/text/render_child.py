"""A process that renders strangers' chat templates, within limits that the kernel keeps.

One line of JSON in, one out.  A template that takes too long ends the process: no check inside
could stop a single operation, such as a power of powers, which jinja may even compute while it
compiles.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from functools import lru_cache
from typing import Any

import jinja2

from lorax_spec.text.chat import ChatTemplate
from lorax_spec.types import Message

#: Seconds for one text, compiling included; the process dies of SIGALRM.
SECONDS = 1.0
#: Bytes of address space, the interpreter's own 50 MB included.
MEMORY = 2**28
#: Characters of a text: those of its messages, so many times, and these.
GROWTH, MOST_ADDED = 2, 2**20
#: Whoever serves goes before.
_NICE = 10
_MAX_ERROR = 300


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        answer = json.dumps(_answer(line)).encode()
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.buffer.write(answer + b"\n")
        sys.stdout.buffer.flush()


def _answer(line: bytes) -> dict[str, str]:
    try:
        return {"text": _render(json.loads(line))}
    except jinja2.TemplateSyntaxError as error:
        return {"error": f"does not compile: {_shortened(error)}"}
    except MemoryError:
        return {"error": f"takes more than {MEMORY} bytes of memory"}
    except Exception as error:
        return {"error": f"refuses these messages: {_shortened(error)}"}


def _render(job: dict[str, Any]) -> str:
    messages = [Message(role, content) for role, content in job["messages"]]
    most = MOST_ADDED + GROWTH * sum(len(one.role) + len(one.content) for one in messages)
    template = _compiled(job["template"], tuple(sorted(job["special_tokens"].items())))
    pieces, length = [], 0
    for piece in template.pieces(messages):
        pieces.append(piece)
        length += len(piece)
        if length > most:
            raise ValueError(f"it gives more than {most} characters")
    text = "".join(pieces)
    text.encode()  # half a surrogate pair, which no tokenizer takes, is refused here
    return text


@lru_cache(maxsize=32)
def _compiled(source: str, special_tokens: tuple[tuple[str, str], ...]) -> ChatTemplate:
    return ChatTemplate(source, dict(special_tokens))


def _shortened(error: Exception) -> str:
    try:
        text = str(error).encode("utf-8", "replace").decode()
    except Exception:  # its message is the template's
        return type(error).__name__
    return text if len(text) <= _MAX_ERROR else text[:_MAX_ERROR] + "…"


if __name__ == "__main__":
    main()
