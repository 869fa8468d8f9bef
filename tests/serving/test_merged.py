"""Merged adapters through a real server: peft's text, beside their parts, whatever else runs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from lorax_spec import AdapterNotFound, Client, InvalidArgument, MergedAdapters, embedded
from lorax_spec.errors import AdapterMismatch
from lorax_spec.text.tokenizer import TextTokenizer
from tests.cli.processes import Server, run

pytestmark = pytest.mark.slow

PARTS = ("demo/pirate", "demo/tests", "own/third")
NEW_TOKENS = 24
#: Of peft's own reference; what dare draws and other ranks are held to it in tests/adapters.
RECIPES: tuple[dict[str, Any], ...] = (
    {"ids": PARTS[:2], "weights": (0.7, 0.3)},
    {"ids": PARTS[:2], "weights": (0.7, 0.3), "merge_strategy": "ties"},
    {"ids": PARTS, "weights": (1.0, -0.5, 0.8), "merge_strategy": "ties", "density": 0.2},
    {
        "ids": PARTS[1:],
        "merge_strategy": "ties",
        "density": 0.8,
        "majority_sign_method": "frequency",
    },
    {"ids": PARTS[2:], "weights": (0.5,)},
)
DARE: tuple[dict[str, Any], ...] = tuple(
    {"ids": (*PARTS, "own/narrow"), "merge_strategy": method, "density": 0.6}
    for method in ("dare_linear", "dare_ties")
)


@pytest.fixture(scope="module")
def peft_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[PeftModel, Path]:
    """A model with the parts, and the folder of those that are not shipped."""
    base = AutoModelForCausalLM.from_pretrained(embedded.path() / "base", dtype=torch.float32)
    shipped = embedded.path() / "adapters"
    model = PeftModel.from_pretrained(base, shipped / "pirate", adapter_name="demo/pirate")
    model.load_adapter(shipped / "tests", adapter_name="demo/tests")
    noise = torch.Generator().manual_seed(4)
    for name, rank in {"third": 8, "narrow": 3}.items():
        targets = ["q_proj", "v_proj", "down_proj"]
        config = LoraConfig(
            task_type="CAUSAL_LM", r=rank, lora_alpha=2 * rank, target_modules=targets
        )
        model.add_adapter(name, config)
        for key, parameter in model.named_parameters():
            if f".{name}." in key:
                scale = 0.3 * parameter.shape[-1] ** -0.5
                parameter.data = torch.randn(parameter.shape, generator=noise) * scale
    folder = tmp_path_factory.mktemp("own")
    model.save_pretrained(folder, selected_adapters=["third", "narrow"])
    return model.eval(), folder


@pytest.fixture(scope="module")
def server(peft_model: tuple[PeftModel, Path]) -> Iterator[Server]:
    _, folder = peft_model
    preloaded = ("--preloaded-adapter-ids", "demo/tests, own/third")
    options = ("--dtype", "float32", "--adapter-id", "demo/pirate", "--speculative-tokens", "4")
    with Server(*options, *preloaded, "--adapter-root", f"own={folder}") as server:
        yield server


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    return [item["prompt"] for item in embedded.workloads()["code"][:2]]


def text_by_peft(model: PeftModel, adapter: str, prompt: str) -> str:
    tokenizer = TextTokenizer.load(embedded.path() / "base")
    ids = torch.tensor([tokenizer.encode(prompt)])
    model.set_adapter(adapter)
    with torch.no_grad():
        answer = model.generate(
            input_ids=ids, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False
        )
    return tokenizer.decode(answer[0, ids.shape[1] :].tolist())


def add_weighted(model: PeftModel, merged: MergedAdapters) -> None:
    model.add_weighted_adapter(
        [name.removeprefix("own/") for name in merged.ids],
        list(merged.weights) or [1.0] * len(merged.ids),
        "merged",
        merged.merge_strategy,
        density=merged.density or 0.5,
        majority_sign_method=merged.majority_sign_method,
    )


def test_texts_are_pefts_in_a_batch_with_the_parts(
    server: Server, peft_model: tuple[PeftModel, Path], prompts: list[str]
) -> None:
    model, _ = peft_model
    jobs = [(prompt, one) for prompt in prompts for one in (*RECIPES, *DARE, *PARTS)]
    with Client(server.grpc) as client, ThreadPoolExecutor(len(jobs)) as threads:

        def ask(job: tuple[str, Any]) -> str:
            prompt, one = job
            what = {"adapter_id": one} if isinstance(one, str) else {"merged_adapters": one}
            return client.generate(
                prompt, max_new_tokens=NEW_TOKENS, ignore_eos_token=True, **what
            ).generated_text

        texts = list(threads.map(ask, jobs))
        again = list(threads.map(ask, reversed(jobs)))
        assert again == texts[::-1], "the same request has the same text"
    answers = dict(zip(((prompt, str(one)) for prompt, one in jobs), texts, strict=True))
    known: tuple[Any, ...] = (*RECIPES, *PARTS)
    for one in known:
        name = one.removeprefix("own/") if isinstance(one, str) else "merged"
        if not isinstance(one, str):
            add_weighted(model, MergedAdapters(**one))
        for prompt in prompts:
            assert answers[prompt, str(one)] == text_by_peft(model, name, prompt), one
        if not isinstance(one, str):
            model.delete_adapter("merged")
    assert len({answers[prompts[0], str(one)] for one in (*RECIPES, *DARE, *PARTS)}) > 6


def test_what_it_holds(server: Server, prompts: list[str]) -> None:
    with Client(server.grpc) as client:
        infos = {info.adapter_id: info for info in client.list_adapters()}
        for adapter_id in ("demo/tests", "own/third"):
            assert infos[adapter_id].pinned and infos[adapter_id].tier == "device"
        assert infos["demo/pirate"].tier == "device", "the default is there from the start"
        merged = {"ids": PARTS[:2], "weights": (0.25, 0.75)}
        answer = client.generate(
            prompts[0],
            max_new_tokens=NEW_TOKENS,
            merged_adapters=merged,
            speculation={"method": "prompt_lookup", "num_tokens": 4},
        )
        infos = {info.adapter_id: info for info in client.list_adapters()}
        info = infos["linear(0.25 demo/pirate + 0.75 demo/tests)"]
        assert (info.kind, info.rank, info.source) == ("lora", 8, "merged")
        assert info.last_used > 1.7e9 and info.load.read > 0
        assert info.drafters == answer.details.speculation.drafters != {}


def test_faults_have_one_clear_error(server: Server) -> None:
    with Client(server.grpc) as client:
        for field, merged in (
            ("merged_adapters.ids", {"ids": []}),
            ("merged_adapters.weights", {"ids": PARTS[:2], "weights": [1.0]}),
            ("merged_adapters.merge_strategy", {"ids": PARTS[:2], "merge_strategy": "svd"}),
            ("merged_adapters.density", {"ids": PARTS[:2], "density": 1.5}),
            (
                "merged_adapters.majority_sign_method",
                {"ids": PARTS[:2], "majority_sign_method": "x"},
            ),
        ):
            with pytest.raises(InvalidArgument) as caught:
                client.generate("x", merged_adapters=merged)
            assert caught.value.field == field
        with pytest.raises(InvalidArgument):
            client.generate("x", "demo/pirate", merged_adapters={"ids": PARTS[:2]})
        with pytest.raises(AdapterNotFound, match="nobody"):
            client.generate("x", merged_adapters={"ids": ["demo/pirate", "nobody"]})
        with pytest.raises(AdapterMismatch, match="adapter 2 of 2 to merge has no LoRA"):
            client.generate("x", merged_adapters={"ids": ["demo/pirate", "demo/medusa"]})


def test_the_command_line(server: Server, prompts: list[str]) -> None:
    words = ["--target", server.grpc, "--max-new-tokens", "12"]
    merging = ["--merge", "demo/pirate=0.7", "--merge", "demo/tests=0.3"]
    done = run("generate", prompts[0], *words, *merging, "--merge-method", "ties")
    with Client(server.grpc) as client:
        merged = MergedAdapters(PARTS[:2], (0.7, 0.3), "ties")
        answer = client.generate(prompts[0], max_new_tokens=12, merged_adapters=merged)
    assert done.stdout.rstrip("\n") == answer.generated_text.rstrip("\n"), done.stderr
    assert run("generate", "x", *words, "--merge", "a=b").returncode == 2
    loaded = run("adapters", "load", "own/narrow", "--target", server.grpc)
    assert loaded.returncode == 0 and "own/narrow" in loaded.stdout and "device" in loaded.stdout
    assert run("adapters", "load", "nobody", "--target", server.grpc).returncode == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--preloaded-adapter-ids", "demo/pirate,nobody"), "--preloaded-adapter-ids"),
        (("--adapter-id", "nobody"), "--adapter-id"),
    ],
)
def test_an_adapter_that_must_be_there_ends_the_start(options: tuple[str, ...], why: str) -> None:
    done = run("serve", "--port", "0", "--grpc-port", "0", *options, timeout=120)
    assert done.returncode not in (0, -9) and "ready" not in done.stdout
    assert why in done.stderr and "nobody" in done.stderr and "Traceback" not in done.stderr
