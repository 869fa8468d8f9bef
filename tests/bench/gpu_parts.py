"""Parts that go wrong in every way, for the process that runs them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from lorax_spec.bench.gpu.figures import Figure
from lorax_spec.bench.gpu.parts import Part


def fine(_stage: Any, more: dict[str, Any]) -> Iterator[Figure]:
    more["process"] = os.getpid()
    yield Figure("a figure", 2.0, " ms", 1.0)


def raising(_stage: Any, _more: dict[str, Any]) -> Iterator[Figure]:
    yield Figure("the first", 1.0)
    raise RuntimeError("no such kernel\nand more")


def dying(_stage: Any, _more: dict[str, Any]) -> Iterator[Figure]:
    os._exit(7)
    yield


def endless(_stage: Any, _more: dict[str, Any]) -> Iterator[Figure]:
    yield Figure("before", 1.0)
    while True:
        time.sleep(0.01)


def deaf(_stage: Any, _more: dict[str, Any]) -> Iterator[Figure]:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    time.sleep(600)
    yield


PARTS = (
    Part("fine", 1, fine),
    Part("raising", 1, raising),
    Part("dying", 1, dying),
    Part("fine again", 1, fine),
    Part("endless", 1, endless),
    Part("deaf", 1, deaf),
    Part("fine at last", 1, fine),
)
