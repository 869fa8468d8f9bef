from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class StepExecutor(Executor):
    """Runs what it was given when the test says so, in the calling thread."""

    def __init__(self) -> None:
        self.jobs: deque[Callable[[], object]] = deque()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.jobs.append(lambda: future.set_result(fn(*args, **kwargs)))
        return future

    def step(self, index: int = 0) -> None:
        job = self.jobs[index]
        del self.jobs[index]
        job()

    def run_all(self) -> None:
        while self.jobs:
            self.step()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now
