"""The benchmark of many adapters, and of adapters that do not come."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from typer.testing import CliRunner

from lorax_spec import embedded
from lorax_spec.bench.callers import Call, Callers, gaps
from lorax_spec.bench.cli import app
from lorax_spec.bench.engine_side import EngineSide
from lorax_spec.bench.slow_hub import SlowHub, the_hub_is
from lorax_spec.bench.workload import prompts
from lorax_spec.bench.zoo import RANK, make_zoo, size, zipf
from lorax_spec.engine.engine import Engine
from lorax_spec.engine.request import TokenRequest
from lorax_spec.errors import AdapterNotFound, Unavailable
from lorax_spec.types import AdapterRef, Parameters

_WEIGHTS = "adapter_model.safetensors"


@given(st.integers(2, 300), st.floats(0.5, 2.0))
def test_the_first_is_asked_for_so_many_times_as_often(count: int, exponent: float) -> None:
    likely = zipf(count, exponent)
    assert likely.sum() == pytest.approx(1)
    assert likely[0] / likely[count - 1] == pytest.approx(count**exponent)


def test_a_zoo_is_of_distinct_adapters_like_their_parents_and_drawn_by_its_seed(
    tmp_path: Path,
) -> None:
    ids = make_zoo(tmp_path / "zoo", 4, seed=1)
    again = make_zoo(tmp_path / "again", 4, seed=1)
    other = make_zoo(tmp_path / "other", 4, seed=2)
    assert ids == again == other

    def content(root: str, adapter_id: str) -> bytes:
        return (tmp_path / root / adapter_id / _WEIGHTS).read_bytes()

    assert len({content(root, one) for root in ("zoo", "other") for one in ids}) == 8
    assert all(content("zoo", one) == content("again", one) for one in ids)
    parent = load_file(embedded.path() / "adapters" / "pirate" / _WEIGHTS)
    child = load_file(tmp_path / "zoo" / ids[0] / _WEIGHTS)
    for name, tensor in parent.items():
        kept = tensor[:RANK] if "lora_A" in name else tensor[:, :RANK]
        apart = (child[name].float() - kept.float()).std() / kept.float().std()
        assert 0.03 < apart < 0.07, name
    assert size(tmp_path / "zoo") > 4 * len(child) * 1000


def _call(*times: float) -> Call:
    request = TokenRequest(1, (1,), Parameters())
    return Call(request, False, 0.0, times=[(moment, 10 * moment) for moment in times])


def test_gaps_count_from_where_all_decode() -> None:
    calls = [_call(1, 2, 4, 8), _call(3, 4, 8)]
    walls = sorted(wall for wall, _ in gaps(calls))
    assert walls == [1, 4, 4]
    assert all(cpu == 10 * wall for wall, cpu in gaps(calls))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    root = tmp_path_factory.mktemp("zoo")
    make_zoo(root / "zoo", 2, seed=0)
    with Engine(dtype="float32", max_total_tokens=512, adapter_root=root) as engine:
        yield engine


def test_callers_know_what_was_cold_and_outlive_what_is_refused(engine: Engine) -> None:
    asked = [
        replace(one, new_tokens=4, ignore_end=True)
        for one in prompts(("doc",), 6, engine.tokenizer)
    ]
    names = ["zoo/zoo-0000", "zoo/none", "zoo/zoo-0001", "zoo/zoo-0000", "zoo/none", "zoo/zoo-0001"]
    requests = [
        replace(request, adapter=AdapterRef(name))
        for request, name in zip(EngineSide(engine.core).requests(asked), names, strict=True)
    ]
    steps = []
    calls = Callers(engine.core, 1).ask(requests, steps.append)
    assert [call.cold for call in calls] == [True, True, True, False, True, False]
    for call, name in zip(calls, names, strict=True):
        if name.endswith("none"):
            assert isinstance(call.error, AdapterNotFound)
            assert not call.times
        else:
            assert call.error is None
            assert len(call.tokens) == len(call.times) == 4
            assert 0 <= call.loading < call.first
    assert steps[0] == ()
    assert sum(len(events) for events in steps) == 4 * 5 + 2
    engine.core.check_integrity()


def test_the_hub_is_as_slow_as_it_says_and_hurries_when_told(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_bytes(b"{}")
    (tmp_path / _WEIGHTS).write_bytes(bytes(20_000))
    hub = SlowHub(tmp_path, 50_000)
    with hub.serving() as endpoint:

        def read(path: str) -> tuple[bytes, float]:
            began = time.perf_counter()
            with urllib.request.urlopen(endpoint + path) as answer:
                return answer.read(), time.perf_counter() - began

        told = json.loads(read("/api/models/slow/one")[0])
        assert [one["size"] for one in told["siblings"]] == [2, 20_000]
        file = f"/slow/one/resolve/{told['sha']}/{_WEIGHTS}"
        content, seconds = read(file)
        assert content == bytes(20_000)
        assert seconds >= 0.4
        hub.hurry.set()
        assert read(file)[1] < 0.3
        with pytest.raises(urllib.error.HTTPError, match="503"):
            read("/api/models/failing/one")


@pytest.mark.slow
def test_an_engine_downloads_from_the_slow_hub_and_is_refused_by_it(tmp_path: Path) -> None:
    hub = SlowHub(embedded.path() / "adapters" / "pirate", 1e6)
    real = constants.ENDPOINT
    with hub.serving() as endpoint:
        with the_hub_is(endpoint):
            engine = Engine(
                dtype="float32",
                max_total_tokens=512,
                adapter_sources=("local", "hub"),
                adapter_cache_dir=tmp_path,
            )
        assert real == constants.ENDPOINT != endpoint
        with engine:
            info = engine.core.adapters.load(AdapterRef("slow/one", "hub"))
            assert (info.rank, info.source) == (8, "hub")
            assert info.load.fetch > 0.3
            with pytest.raises(Unavailable, match="503"):
                engine.core.adapters.load(AdapterRef("failing/one", "hub"))


@pytest.mark.slow
def test_a_quick_run_serves_them_all(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    done = CliRunner().invoke(app, ["exchange", "--quick", "--json", str(path)])
    assert done.exit_code == 0, done.output
    found = json.loads(path.read_text())["exchange"]
    by_promise = {check["promise"]: check for check in found["checks"]}
    assert by_promise["requests that failed among them"]["measured"] == 0
    assert by_promise["requests and leases left over"]["measured"] == 0
    rows = {row["what"]: row for row in found["rows"]}
    assert rows["by Zipf's law, by one adapter"]["tokens/s"] > 0
    cold = rows["first token, adapter not on device"]
    assert cold["n"] > 0
    assert 0 < cold["p50 ms"] <= cold["p99 ms"]
    assert rows["noise: quiet twice"]["n"] == 2
