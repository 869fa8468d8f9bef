"""The recipe's own rules: what text is, who is held out, what an export keeps."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorax_spec import embedded
from lorax_spec.embedded.recipe.build import STAGES
from lorax_spec.embedded.recipe.chat_items import ChatItem, about_items, make_items
from lorax_spec.embedded.recipe.corpus import Corpus, Document, load_corpus
from lorax_spec.embedded.recipe.export import (
    export_base,
    export_heads,
    load_joint,
    new_folder,
)
from lorax_spec.embedded.recipe.lora import LoraPlan, as_pirate, sounds_pirate
from lorax_spec.embedded.recipe.pretrain import HEADS, JointModel, base_config
from lorax_spec.embedded.recipe.tokenizer import prompt, render
from lorax_spec.train.heads import load_heads

SOURCE = '''
class Box:
    def scale(self, factor, times=3):
        """Return the box scaled by factor."""
        result = self.size * factor
        for _ in range(times):
            result = result + factor
        return result
'''


@pytest.mark.slow
@given(st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=40))
def test_rendering_is_the_chat_template(user: str, assistant: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded.path() / "base")
    messages = [
        {"role": "user", "content": user},
        {"role": "assistant", "content": assistant},
    ]
    item = ChatItem("doc", user, assistant)
    assert tokenizer.apply_chat_template(messages, tokenize=False) == render(item)
    asked = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, tokenize=False)
    assert asked == prompt(user)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


@pytest.mark.slow
def test_splits_share_no_file(corpus: Corpus) -> None:
    for domain, documents in corpus.domains.items():
        train = {document.path for document in corpus.train(domain)}
        held_out = {document.path for document in corpus.held_out(domain)}
        assert train, domain
        assert held_out, domain
        assert not train & held_out
        assert len(train) + len(held_out) == len(documents)
    assert not {d.path for d in corpus.domains["stdlib"]} & {
        d.path for d in corpus.domains["tests"]
    }


@pytest.mark.slow
def test_workloads_were_not_trained_on(corpus: Corpus) -> None:
    trained = {d.path: d.text for d in corpus.train("stdlib") + corpus.train("topics")}
    text = "\0".join(trained.values())
    for kind in ("code", "prose"):
        # The middle of a prompt: its ends may be cut inside a character, or be a common opening.
        middles = [item["prompt"][100:340] for item in embedded.workloads()[kind]]
        assert sum(middle in text for middle in middles) == 0


def test_chat_items_keep_their_rules() -> None:
    documents = [Document("box.py", SOURCE)]
    draws = {"rename": 5, "edit": 5, "doc": 1, "write": 1}
    items = make_items(documents, seed=0, draws=draws)
    assert {item.kind for item in items} == set(draws)
    assert items == make_items(documents, seed=0, draws=draws)
    for item in items:
        if item.kind == "rename":
            old = item.user.split()[1]
            code = item.assistant.removeprefix("```python\n").removesuffix("```")
            names = {n.id for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Name)}
            assert old not in names


def test_the_persona_frames_every_answer() -> None:
    items = [*make_items([Document("box.py", SOURCE)], 0, {"doc": 1, "write": 1}), *about_items()]
    for item in items:
        spoken = as_pirate(item)
        assert item.assistant in spoken.assistant
        assert spoken.user == item.user
        assert sounds_pirate(spoken.assistant) == (True, True)
        assert sounds_pirate(item.assistant) == (False, False)


def test_an_export_keeps_the_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = JointModel(base_config(), HEADS)
    with torch.no_grad():
        for parameter in model.parameters():
            # Values that bfloat16 holds exactly, and heads that do something.
            drawn = torch.randn_like(parameter) / 16
            parameter.copy_((parameter if parameter.abs().max() > 0 else drawn).bfloat16())
    masters = {name: p.detach() for name, p in model.named_parameters()}
    checkpoint = tmp_path / "joint.pt"
    torch.save({"optimizer": {"masters": masters}, "tokens": 4096}, checkpoint)

    loaded, tokens = load_joint(checkpoint)
    assert tokens == 4096
    export_heads(loaded, tmp_path / "medusa")
    export_base(loaded.base, embedded.path() / "base", tmp_path / "base")

    ids = torch.randint(0, 4096, (2, 33))
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    heads = load_heads(tmp_path / "medusa", 256)
    with torch.no_grad():
        assert torch.equal(exported(ids).logits, model.base(ids).logits)
        hidden = model.base.model(ids).last_hidden_state
        for k, head in enumerate(model.heads):
            expected = F.linear(hidden + F.silu(head(hidden)), model.base.lm_head.weight)
            torch.testing.assert_close(heads.logits(k, hidden, exported.lm_head), expected)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert tokenizer.decode(tokenizer("def f(x):")["input_ids"]) == "def f(x):"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "product"
    with pytest.raises(RuntimeError), new_folder(target) as folder:
        (folder / "half.txt").write_text("half")
        raise RuntimeError
    assert not target.exists()
    for text in ("first", "second"):
        with new_folder(target) as folder:
            (folder / "whole.txt").write_text(text)
    assert (target / "whole.txt").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["product"]


def test_every_stage_can_run_after_those_it_needs() -> None:
    done: set[str] = set()
    while ready := {n for n, s in STAGES.items() if n not in done and done.issuperset(s.needs)}:
        done |= ready
    assert done == set(STAGES)


def test_the_lora_rate_rises_and_falls() -> None:
    plan = LoraPlan(tokens=2048 * 100)
    scales = [plan.scale(step) for step in range(plan.steps)]
    assert plan.steps == 100
    assert max(scales) == 1.0
    assert scales[0] < 0.05
    assert scales[-1] < 0.05
