"""Whose turn it is to start, whoever else waits and comes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.engine.blocks import BlockPool
from lorax_spec.engine.scheduler import Scheduler
from lorax_spec.engine.sequence import Sequence
from lorax_spec.types import AdapterRef, MergedRef
from tests.engine.sequences import next_token, sequence


def on(
    adapter: str, token: str = "", number: int = 0, new_tokens: int = 1, ready: bool = True
) -> Sequence:
    one = sequence(5, new_tokens, number=number, ready=ready)
    ref = AdapterRef(adapter, api_token=token) if adapter else None
    one.request = replace(one.request, adapter=ref)
    return one


def scheduler(batch: int, *waiting: Sequence) -> Scheduler:
    own = Scheduler(BlockPool(1001), 1000, batch)
    for one in waiting:
        own.add(one)
    return own


def run(own: Scheduler) -> list[Sequence]:
    """A step; returns who started in it.  Who has all its tokens ends."""
    before = set(own.running)
    plan = own.schedule()
    for scheduled in plan:
        one = scheduled.sequence
        one.tokens.append(next_token(one.tokens))
        own.advance(one, len(one.tokens) - 1)
    started = [one for one in own.running if one not in before]
    for one in [one for one in own.running if len(one.tokens) >= one.limit]:
        own.remove(one)
    return started


def order(own: Scheduler) -> list[int]:
    """Who starts when one runs at a time."""
    started = []
    while own.waiting:
        started += [one.request.request_id for one in run(own)]
    return started


def test_adapters_take_turns() -> None:
    crowd = [on("a", number=i) for i in range(4)]
    few = [on("b", number=4), on("", number=5), on("", number=6), on("c", number=7)]
    assert order(scheduler(1, *crowd, *few)) == [0, 4, 5, 7, 1, 6, 2, 3]


def test_a_tenant_gains_nothing_by_many_adapters() -> None:
    many = [on(name, "token", number=i) for i, name in enumerate("abca")]
    other = [on("a", "another", number=i) for i in range(4, 7)]
    assert order(scheduler(1, *many, *other)) == [0, 4, 1, 5, 2, 6, 3]


def test_whose_token_a_merged_or_paired_request_brings() -> None:
    merged, paired, same = on("a", number=0), on("", number=1), on("b", "token", number=2)
    parts = (AdapterRef("a"), AdapterRef("b", api_token="token"))
    merged.request = replace(merged.request, adapter=MergedRef(parts, (1.0, 1.0)))
    paired.request = replace(paired.request, medusa=AdapterRef("h", api_token="token"))
    assert order(scheduler(1, merged, paired, same, on("c", number=3))) == [0, 3, 1, 2]


def test_the_oldest_is_first_whenever_it_became_ready() -> None:
    late = on("a", number=0, ready=False)
    own = scheduler(1, late, on("a", number=1), on("a", number=2))
    run(own)
    own.make_ready(late)
    assert order(own) == [0, 2]


def test_who_is_put_aside_keeps_its_age() -> None:
    ones = [on("a", number=i) for i in range(3)]
    for one in ones:
        one.lease = object()  # type: ignore[assignment]
    own = scheduler(1, *ones)
    run(own)
    assert own.put_aside({one.lease for one in ones}) == ones[1:]
    assert not run(own) and not any(one.ready for one in ones[1:])
    own.make_ready(ones[2])
    own.make_ready(ones[1])
    assert order(own) == [1, 2]


@dataclass(frozen=True)
class Arrival:
    step: int
    aside: int
    tenant: str
    adapter: str
    new_tokens: int
    cancelled: int | None


arrivals = st.builds(
    Arrival,
    step=st.integers(0, 30),
    aside=st.sampled_from([0, 0, 4]),
    tenant=st.sampled_from(["", "", "x", "y"]),
    adapter=st.sampled_from(["", "a", "b", "c"]),
    new_tokens=st.integers(1, 6),
    cancelled=st.sampled_from([None, None, None, 2]),
)


@settings(max_examples=200)
@given(crowd=st.lists(arrivals, min_size=1, max_size=40), batch=st.integers(1, 4))
def test_nobody_waits_for_more_than_everybodys_turn(crowd: list[Arrival], batch: int) -> None:
    """The bound that ``Turns`` states, and no place in the batch stays empty meanwhile."""
    own = scheduler(batch)
    live = {i: on(a.adapter, a.tenant, i, a.new_tokens, False) for i, a in enumerate(crowd)}
    key = {}
    for i, arrival in enumerate(crowd):
        tenant = (arrival.adapter and arrival.tenant) or ("", arrival.adapter)
        key[live[i]] = tenant, arrival.adapter
    passed: dict[Sequence, int] = {}
    tenants = adapters = 1
    for step in range(300):
        for i, arrival in enumerate(crowd):
            if arrival.step == step:
                own.add(live[i])
            if arrival.step + arrival.aside == step and live[i] in own.aside:
                own.make_ready(live[i])
            if (
                arrival.cancelled is not None
                and arrival.step + arrival.cancelled == step
                and live[i] in (*own.running, *own.waiting)
            ):
                own.remove(live[i])
        waiting = [one for one in own.waiting if one.ready]
        queues = {key[one] for one in waiting}
        tenants = max(tenants, len({tenant for tenant, _ in queues}))
        for tenant in {tenant for tenant, _ in queues}:
            adapters = max(adapters, sum(one == tenant for one, _ in queues))
        oldest = {key[one]: one for one in sorted(waiting, key=lambda one: -one.number)}
        passed = {one: times for one, times in passed.items() if oldest.get(key[one]) is one}
        room = batch - len(own.running)
        started = run(own)
        assert len(started) == min(len(waiting), room)
        for one in started:
            assert one is oldest[key[one]]
            rest = [two for two in waiting if key[two] == key[one] and two is not one]
            waiting.remove(one)
            passed.pop(one, None)
            for queue, two in oldest.items():
                if queue != key[one]:
                    passed[two] = passed.get(two, 0) + 1
                    assert passed[two] <= tenants * adapters - 1
            oldest.pop(key[one])
            if rest:
                oldest[key[one]] = min(rest, key=lambda two: two.number)
    assert not own.waiting and not own.running
