"""Which models may help, and an engine that one helps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lorax_spec import embedded
from lorax_spec.engine.core import EngineCore
from lorax_spec.engine.drafting.draft_model import DraftModelDrafter
from lorax_spec.engine.drafting.draft_model_loading import cache_blocks, check_vocabulary
from lorax_spec.engine.request import TokenRequest
from lorax_spec.errors import InvalidArgument
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.types import Method, Parameters
from tests.conformance.running import run
from tests.engine.conftest import NewRequest, load_core
from tests.engine.small_model import Prompts, small


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    path, base = embedded.draft_path(), embedded.path() / "base"
    check_vocabulary(small(), path, 4096, base)
    with pytest.raises(InvalidArgument, match=r"4096 tokens.*32000") as refused:
        check_vocabulary(small(), path, 32000, base)
    assert refused.value.field == "draft_model_id"
    text = (base / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(text)))
    check_vocabulary(small(), tmp_path, 4096, base)
    content = json.loads(text)
    names = {index: name for name, index in content["model"]["vocab"].items()}
    content["model"]["vocab"] |= {names[300]: 301, names[301]: 300}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InvalidArgument, match="names its tokens otherwise"):
        check_vocabulary(small(), tmp_path, 4096, base)


def test_the_cache_is_a_share_of_the_large_models() -> None:
    assert cache_blocks(1000, 10, 1 / 100) == 1000
    assert cache_blocks(1000, 10, 1 / 4) == 500
    assert cache_blocks(1000, 700, 1 / 4) == 700


@pytest.fixture(scope="module")
def helped() -> Iterator[EngineCore]:
    core = load_core(draft_model_id=str(embedded.draft_path()))
    yield core
    core.close()


@pytest.mark.parametrize("temperature", [None, 0.8])
def test_an_engine_writes_the_same_in_fewer_forwards(
    helped: EngineCore, prompts: Prompts, new_request: NewRequest, temperature: float | None
) -> None:
    """Mixed in one batch with a LoRA's; afterwards nothing is held."""

    def requests(method: Method) -> list[TokenRequest]:
        made = [
            new_request(prompt, 40, method, 4, adapter=adapter)
            for kind, adapter in [("write", None), ("rename", None), ("doc", "pirate")]
            for prompt in prompts[kind][:3]
        ]
        sampled = Parameters(max_new_tokens=40, temperature=temperature, seed=5)
        return [replace(one, parameters=sampled) for one in made]

    plain = run(helped, requests(Method.NONE))
    helped.check_integrity()
    drafted = run(helped, requests(Method.DRAFT_MODEL))
    assert [one.ids for one in drafted] == [one.ids for one in plain]
    for group in (drafted[:3], drafted[3:6]):
        forwards = sum(one.speculation.forward_passes for one in group)
        assert sum(len(one.ids) for one in group) > 1.8 * forwards
    assert all(set(one.speculation.drafters) == {"draft_model"} for one in drafted)
    drafter = helped._drafting._drafters["draft_model"]
    assert isinstance(drafter, DraftModelDrafter)
    drafter.shadows.check_integrity()
    assert drafter.shadows.free == blocks_of(drafter)


def blocks_of(drafter: DraftModelDrafter) -> int:
    """All that can be held."""
    keys, _ = drafter._model.caches[0]
    return keys.shape[1] // BLOCK_SIZE - 1


def test_a_draft_model_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidArgument, match="draft model /nowhere/at/all") as refused:
        load_core(draft_model_id="/nowhere/at/all")
    assert refused.value.field == "draft_model_id"
