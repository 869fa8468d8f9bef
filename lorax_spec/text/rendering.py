"""Adapters' chat templates, rendered beside this process: they are strangers' programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

from lorax_spec.errors import InvalidArgument, Unavailable
from lorax_spec.text.render_child import SECONDS
from lorax_spec.types import AdapterChat, Message

#: All that a child sees of the environment, in which there may be secrets.
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "TZ")

_Child = subprocess.Popen[bytes]


class Renderer:
    """Keeps up to ``children`` processes, begun when needed; thread-safe.

    A text may take a second, 256 MiB, and a mebicharacter more than twice its messages; what goes
    beyond is refused, and costs nobody else a text.
    """

    def __init__(self, children: int = 1) -> None:
        self._free = threading.BoundedSemaphore(children)
        self._idle: list[_Child] = []
        self._children: set[_Child] = set()
        self._lock = threading.Lock()
        self._closed = False

    def render(
        self,
        adapter_id: str,
        chat: AdapterChat,
        special_tokens: Mapping[str, str],
        messages: Sequence[Message],
    ) -> str:
        """The prompt for a conversation.

        ``special_tokens`` are the model's; the adapter's own go before.  Raises InvalidArgument
        where the template refuses the messages, does not compile or exceeds a limit.
        """
        job = {
            "template": chat.template,
            "special_tokens": {**special_tokens, **chat.special_tokens},
            "messages": [(message.role, message.content) for message in messages],
        }
        line = json.dumps(job).encode() + b"\n"
        with self._free:
            answer = self._ask(line)
        if "text" in answer:
            return answer["text"]
        problem = f"the chat template of adapter {adapter_id!r} {answer['error']}"
        raise InvalidArgument(problem, "messages")

    def close(self) -> None:
        """End the processes; texts that are on their way fail."""
        with self._lock:
            self._closed = True
            children, self._children = self._children, set()
            self._idle.clear()
        for child in children:
            _end(child)

    def _ask(self, line: bytes) -> dict[str, str]:
        child = self._take()
        try:
            assert child.stdin is not None and child.stdout is not None, "both are pipes"
            child.stdin.write(line)
            child.stdin.flush()
            answer = child.stdout.readline()
        except OSError:
            answer = b""
        if answer.endswith(b"\n"):
            self._idle.append(child)
            told: dict[str, str] = json.loads(answer)
            return told
        with self._lock:
            self._children.discard(child)
            closed = self._closed
        status = _end(child)
        if closed:
            raise Unavailable("this server is shutting down")
        if status == -signal.SIGALRM:
            return {"error": f"takes longer than {SECONDS:g} s"}
        return {"error": f"ends its process with status {status}"}

    def _take(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if child.poll() is None:
                return child
            with self._lock:
                self._children.discard(child)
            _end(child)
        with self._lock:
            if self._closed:
                raise Unavailable("this server is shutting down")
            child = _start()
            self._children.add(child)
        return child


def _start() -> _Child:
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "lorax_spec.text.render_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def _end(child: _Child) -> int:
    """Its status; how it died by itself where it did."""
    child.kill()
    status = child.wait()
    for pipe in (child.stdin, child.stdout):
        with suppress(OSError):  # what it has not read is lost
            if pipe is not None:
                pipe.close()
    return status
