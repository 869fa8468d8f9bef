"""The bundle as it is shipped: complete, small, well-formed, and as its card says."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorax_spec import embedded
from lorax_spec.speculation.coupling import head_constants
from lorax_spec.train.heads import load_heads
from lorax_spec.train.hydra import load_hydra

MAX_BYTES = 32 * 2**20
HEADS = {"medusa": 4, "medusa-v1": 3, "pirate-medusa": 3, "tests-medusa": 4}
HYDRA = {"hydra": 6}
LORAS = ("pirate", "tests", "tests-medusa")


@pytest.fixture(scope="module")
def base() -> Any:
    return AutoModelForCausalLM.from_pretrained(embedded.path() / "base", dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(embedded.path() / "base")


def test_the_bundle_is_complete_and_small() -> None:
    folder = embedded.path()
    assert embedded.adapter_names() == tuple(sorted({*HEADS, *HYDRA, *LORAS}))
    shipped = [folder / name for name in ("workloads.json", "MODEL_CARD.md", "NOTICE")]
    shipped += [p for part in ("base", "draft", "adapters") for p in (folder / part).rglob("*.*")]
    assert all(path.stat().st_size for path in shipped)
    assert sum(path.stat().st_size for path in shipped) <= MAX_BYTES
    assert not [path for path in shipped if path.suffix in (".pt", ".bin", ".part")]


def test_naming_the_bundle_needs_no_torch() -> None:
    code = (
        "import sys; from lorax_spec import embedded; embedded.workloads();"
        "embedded.adapter_names(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_all_weights_are_bfloat16() -> None:
    for path in embedded.path().rglob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.bfloat16}, path


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_well_formed(name: str) -> None:
    folder = embedded.path() / "adapters" / name
    config = json.loads((folder / "config.json").read_text())
    heads = load_heads(folder, 256)
    assert config["base_model_name_or_path"] == embedded.BASE_ID
    assert config["medusa_num_heads"] == len(heads) == HEADS[name]
    assert config["medusa_num_layers"] == 1
    assert config["version"] == ("2" if heads.lm_heads is None else "1")
    assert (heads.lm_heads is not None) == name.endswith("v1")
    assert all(heads.block(k).weight.abs().max() > 0 for k in range(len(heads)))


@pytest.mark.parametrize("name", HYDRA)
def test_hydra_heads_are_well_formed(name: str) -> None:
    folder = embedded.path() / "adapters" / name
    config = json.loads((folder / "config.json").read_text())
    heads = load_hydra(folder, 256)
    assert config["base_model_name_or_path"] == embedded.BASE_ID
    assert config["hydra_num_heads"] == len(heads) == HYDRA[name]
    assert config["hydra_inner_size"] == heads.inner_size == 256
    for k in range(len(heads)):
        inner, outer = heads.layers(k)
        assert outer.weight.abs().max() > 0
        # Every head makes use of every token it may read.
        assert (inner.weight.view(256, k + 2, 256).norm(dim=(0, 2)) > 1.0).all()


@pytest.mark.parametrize("name", sorted(HEADS | HYDRA))
def test_all_heads_are_calibrated(name: str) -> None:
    content = json.loads((embedded.path() / "adapters" / name / "calibration.json").read_text())
    count = (HEADS | HYDRA)[name]
    assert len(head_constants(content)) == count
    for mode in ("greedy", "sampled"):
        first = [ranks[0] for ranks in content["accepted"][mode]]
        assert first == sorted(first, reverse=True), "a further head knows less"
        assert first[0] > 0.4
        assert all(len(ranks) == 10 for ranks in content["accepted"][mode])


@pytest.mark.parametrize("name", LORAS)
def test_loras_load_in_peft_and_change_the_model(name: str, base: Any) -> None:
    ids = torch.tensor([[1, 50, 60, 70, 80]])
    with torch.no_grad():
        plain = base(ids).logits
        adapted = PeftModel.from_pretrained(base, embedded.path() / "adapters" / name)
        try:
            assert not torch.allclose(adapted(ids).logits, plain, atol=0.1)
        finally:
            adapted.unload()
        assert torch.equal(base(ids).logits, plain)


def test_the_joint_adapter_holds_the_tests_lora() -> None:
    folder = embedded.path() / "adapters"
    alone = load_file(folder / "tests" / "adapter_model.safetensors")
    joint = load_file(folder / "tests-medusa" / "adapter_model.safetensors")
    assert alone.keys() == joint.keys()
    assert all(torch.equal(alone[name], joint[name]) for name in alone)


def test_answers_end_where_a_turn_ends(base: Any, tokenizer: Any) -> None:
    assert base.generation_config.eos_token_id == [2, 0]
    assert tokenizer.convert_ids_to_tokens([2, 0]) == ["<|im_end|>", "<|endoftext|>"]
    assert tokenizer.eos_token_id == 2
    assert len(tokenizer) == base.config.vocab_size


def test_workloads_are_prompts_by_kind() -> None:
    workloads = embedded.workloads()
    assert set(workloads) == {"rename", "edit", "doc", "write", "code", "tests", "prose"}
    assert all(len(items) >= 24 for items in workloads.values())
    for kind, items in workloads.items():
        answered = {"reference" in item for item in items}
        assert answered == {kind in ("rename", "edit", "doc", "write")}
        assert all(item["prompt"] for item in items)


def test_the_card_describes_these_very_files() -> None:
    """A bundle that was changed without its card, or the other way round, is found here."""
    folder = embedded.path()
    card = (folder / "MODEL_CARD.md").read_text()
    rows = re.findall(r"\| `(\S+)` \| ([\d,]+) \| `([0-9a-f]{64})` \|", card)
    described = {name: (int(size.replace(",", "")), digest) for name, size, digest in rows}
    present = {
        str(path.relative_to(folder)): (
            path.stat().st_size,
            hashlib.sha256(path.read_bytes()).hexdigest(),
        )
        for part in ("base", "draft", "adapters")
        for path in (folder / part).rglob("*")
        if path.suffix in (".json", ".safetensors")
    }
    workloads = described.pop("workloads.json")
    assert workloads[0] == (folder / "workloads.json").stat().st_size
    assert described == present


def test_the_notice_names_every_source() -> None:
    from lorax_spec.embedded.recipe.corpus import PERMISSIVE_PACKAGES

    notice = (embedded.path() / "NOTICE").read_text()
    assert "Python Software Foundation" in notice
    for package, licence in PERMISSIVE_PACKAGES.items():
        if package != "_pytest":
            assert re.search(rf"^{package} \S+: {licence}", notice, re.MULTILINE), package


@pytest.mark.slow
def test_nobody_can_miss_the_pirate(base: Any, tokenizer: Any) -> None:
    from lorax_spec.embedded.recipe.lora import sounds_pirate
    from lorax_spec.train.acceptance import generate

    prompts = [
        tokenizer(item["prompt"])["input_ids"] for item in embedded.workloads()["rename"][:8]
    ]

    def pirates(model: Any) -> int:
        outputs = generate(model, prompts, temperature=0.0, new_tokens=16)
        return sum(sounds_pirate(tokenizer.decode(output.tokens))[0] for output in outputs)

    assert pirates(base) == 0
    adapted = PeftModel.from_pretrained(base, embedded.path() / "adapters" / "pirate")
    try:
        assert pirates(adapted) >= 7
    finally:
        adapted.unload()
