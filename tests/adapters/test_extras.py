"""What an adapter's folder says about texts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lorax_spec import embedded
from lorax_spec.adapters.extras import AdapterExtras, faults, read_extras
from lorax_spec.adapters.folder import read_folder
from lorax_spec.adapters.inspect import inspect
from lorax_spec.errors import AdapterMismatch
from lorax_spec.types import AdapterChat
from tests.adapters.writers import SHAPE, write_lora

BASE = embedded.path() / "base"


def test_nothing_is_the_rule(tmp_path: Path) -> None:
    assert read_extras(write_lora(tmp_path)) == AdapterExtras()


def test_a_tokenizer_as_transformers_saves_it(tmp_path: Path) -> None:
    """With a token of its own, which the embedded model has no embedding for."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(tmp_path / "same")
    seen = read_extras(tmp_path / "same")
    assert seen.chat_template == "{{ messages }}"
    assert seen.added_tokens == tokenizer.get_added_vocab() and len(seen.added_tokens) > 2
    assert list(faults(seen, 4096)) == []
    tokenizer.add_tokens(["<call>"])
    tokenizer.save_pretrained(tmp_path / "more")
    more = read_extras(tmp_path / "more")
    assert more.added_tokens["<call>"] == 4096
    (fault,) = faults(more, 4096)
    assert "'<call>' (4096)" in fault and "4096 tokens" in fault


@pytest.mark.parametrize(
    ("files", "template"),
    [
        ({"chat_template.jinja": "{{ 1 }}"}, "{{ 1 }}"),
        ({"chat_template.json": {"chat_template": "a"}}, "a"),
        ({"tokenizer_config.json": {"chat_template": "b"}}, "b"),
        ({"chat_template.jinja": "c", "tokenizer_config.json": {"chat_template": "b"}}, "c"),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [
                        {"name": "tools", "template": "t"},
                        {"name": "default", "template": "d"},
                    ]
                }
            },
            "d",
        ),
    ],
)
def test_chat_templates(tmp_path: Path, files: dict[str, Any], template: str) -> None:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / name).write_text(text)
    assert read_extras(tmp_path).chat_template == template


def test_special_tokens_of_those_who_have_a_template(tmp_path: Path) -> None:
    config = {
        "eos_token": {"content": "<|im_end|>"},
        "bos_token": "<s>\ud800",
        "unk_token": None,
        "add_bos_token": True,
        "sep_token": "x" * 257,
        "model_max_length": 7,
        **{f"a{number}_token": "a" for number in range(99)},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    seen = read_extras(tmp_path)
    assert seen.special_tokens["eos_token"] == "<|im_end|>"
    assert seen.special_tokens["bos_token"] == "<s>?", "half a pair goes over no wire"
    assert len(seen.special_tokens) == 32
    assert not seen.special_tokens.keys() & {"unk_token", "add_bos_token", "sep_token"}
    assert seen.chat == AdapterChat(), "these are its template's"
    (tmp_path / "chat_template.jinja").write_text("{{ eos_token }}")
    assert read_extras(tmp_path).chat == AdapterChat("{{ eos_token }}", seen.special_tokens)
    (tmp_path / "chat_template.jinja").write_text("a" * (2**16 + 1))
    with pytest.raises(AdapterMismatch, match="longer than 65536 characters"):
        read_extras(tmp_path)


def test_tokens_beyond_the_vocabulary_are_refused(tmp_path: Path) -> None:
    folder = write_lora(tmp_path)
    (folder / "added_tokens.json").write_text(json.dumps({"<new>": 128, "[PAD]": 129}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    with pytest.raises(AdapterMismatch, match=r"adds '<new>' \(128\), this model has"):
        read_folder(folder, SHAPE, torch.float32)
    (folder / "added_tokens.json").write_text(json.dumps({"<new>": 127, "[PAD]": 129}))
    read_folder(folder, SHAPE, torch.float32)
    seen = inspect(folder, SHAPE)
    assert seen.faults == () and seen.added_tokens == 2


@settings(max_examples=200)
@given(data=st.data())
def test_broken_files_cost_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "extras"
    folder.mkdir(exist_ok=True)
    files = {
        "tokenizer_config.json": b'{"added_tokens_decoder": {"3": {"content": "x"}}}',
        "added_tokens.json": b'{"y": 4}',
        "tokenizer.json": b'{"version": "1", "added_tokens": [{"id": 5, "content": "z"}]}',
        "chat_template.json": b'{"chat_template": [{"name": "default", "template": "t"}]}',
    }
    broken = data.draw(st.sampled_from(sorted(files)))
    for name, content in files.items():
        changed = bytearray(content)
        if name == broken:
            for _ in range(data.draw(st.integers(1, 3))):
                at = data.draw(st.integers(0, len(changed) - 1))
                changed[at] = data.draw(st.integers(0, 255))
            if data.draw(st.booleans()):
                del changed[data.draw(st.integers(0, len(changed) - 1)) :]
        (folder / name).write_bytes(changed)
    try:
        seen = read_extras(folder)
    except AdapterMismatch as error:
        assert error.message
    else:
        assert all(type(number) is int for number in seen.added_tokens.values())


def test_it_needs_no_torch() -> None:
    code = "import sys, lorax_spec.adapters.extras; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
