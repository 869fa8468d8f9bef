from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from lorax_spec.adapters.host_threads import HostThreads
from lorax_spec.adapters.known import Known
from lorax_spec.adapters.retry import Retry
from lorax_spec.errors import AdapterNotFound, Unavailable
from tests.adapters.executors import Clock


def failing(times: int, error: Exception) -> Callable[[], str]:
    calls = iter(range(times))

    def call() -> str:
        if next(calls, None) is not None:
            raise error
        return "well"

    return call


@pytest.mark.parametrize(("times", "well"), [(0, True), (3, True), (4, True), (5, False)])
def test_waits_double_and_end(times: int, well: bool) -> None:
    waits = list[float]()
    retry = Retry(attempts=5, first=1.0, longest=3.0, sleep=waits.append)
    if well:
        assert retry(failing(times, Unavailable("down"))) == "well"
    else:
        with pytest.raises(Unavailable):
            retry(failing(times, Unavailable("down")))
    assert len(waits) == min(times, 4)
    for wait, longest in zip(waits, [1, 2, 3, 3], strict=False):
        assert longest / 2 <= wait <= longest


def test_other_errors_are_final() -> None:
    with pytest.raises(AdapterNotFound):
        Retry(sleep=lambda seconds: None)(failing(1, AdapterNotFound("none")))


def test_progress_begins_anew_and_standing_still_ends() -> None:
    steps = iter([1, 2, 3, 3, 2, 3, 3])
    reached = [0]

    def call() -> None:
        reached[0] = next(steps)
        raise Unavailable("cut")

    with pytest.raises(Unavailable):
        Retry(attempts=3, sleep=lambda seconds: None)(call, lambda: reached[0])
    assert list(steps) == [3, 3], "three steps forth, and two that led nowhere new"


def test_findings_are_forgotten() -> None:
    clock = Clock()
    known = Known(most=2, clock=clock)
    known.put("a", AdapterNotFound("a"), 3)
    known.put("b", AdapterNotFound("b"), float("inf"))
    clock.now += 2.9
    assert known.get("a")
    clock.now += 0.2
    assert known.get("a") is None and known.get("b")
    known.put("c", AdapterNotFound("c"), 3)
    known.get("b")
    known.put("d", AdapterNotFound("d"), 3)
    assert known.get("c") is None and known.get("b") and known.get("d")


def test_hosts_have_their_own_threads_and_no_more_than_those() -> None:
    threads, release = HostThreads("test", per_host=2), threading.Event()
    lock, running, most, done = threading.Lock(), [0], [0], threading.Semaphore(0)

    def slow() -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        release.wait(5)
        with lock:
            running[0] -= 1
        done.release()

    for _ in range(10):
        threads.submit("crawling", slow)
    quick = threading.Event()
    threads.submit("quick", quick.set)
    assert quick.wait(5)
    release.set()
    for _ in range(10):
        assert done.acquire(timeout=5)
    assert most[0] == 2
    threads.close()
    late = threading.Event()
    threads.submit("quick", late.set)
    time.sleep(0.02)
    assert not late.is_set()
