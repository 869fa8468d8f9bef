"""Grammars are compiled aside, once, and not for ever."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from lorax_spec import embedded
from lorax_spec.engine.grammar import compiling, formats
from lorax_spec.engine.grammar.compiling import Compiling, Grammars
from lorax_spec.errors import InvalidArgument, LoraxSpecError, Unimplemented
from lorax_spec.types import ResponseFormat

REGEX = ResponseFormat("regex", "[a-z]{3,6}-[0-9]{2}")


def settled(job: Compiling) -> LoraxSpecError | None:
    deadline = time.monotonic() + 30
    while not job.settled:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return job.error


def grammars(folder: Path, eos: frozenset[int] = frozenset({2})) -> Grammars:
    return Grammars(folder, 4096, eos, torch.device("cpu"), lambda: None)


def test_a_model_without_tokenizer_or_end_says_so(tmp_path: Path) -> None:
    for each in (grammars(tmp_path), grammars(embedded.path() / "base", frozenset())):
        job = each.compile(REGEX)
        assert job is not None and isinstance(settled(job), Unimplemented)
        assert "response_format" in str(job.error)
        each.close()


def test_a_grammar_is_compiled_once_and_none_for_free_text() -> None:
    each = grammars(embedded.path() / "base")
    first = each.compile(REGEX)
    assert first is not None and settled(first) is None
    assert each.compile(ResponseFormat("regex", REGEX.schema)) is first
    assert each.compile(None) is None
    assert each.compile(ResponseFormat("text")) is None
    each.close()


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grammar too large is given up, one that waited behind it is tried again."""
    monkeypatch.setattr(compiling, "PATIENCE", 0.1)
    monkeypatch.setattr(compiling, "_THREADS", 1)
    release = threading.Event()
    original = formats.compile_format

    def slowly(compiler: object, wanted: ResponseFormat) -> object:
        if wanted.schema == "huge":
            release.wait(30)
        return original(compiler, wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(formats, "compile_format", slowly)
    each = grammars(embedded.path() / "base")
    huge, behind = each.compile(ResponseFormat("regex", "huge")), each.compile(REGEX)
    assert huge is not None and behind is not None
    for job in (huge, behind):
        error = settled(job)
        assert isinstance(error, InvalidArgument) and "seconds" in error.message
    release.set()
    monkeypatch.setattr(compiling, "PATIENCE", 30.0)
    retried = each.compile(REGEX)
    assert retried is not None and retried is not behind and settled(retried) is None
    each.close()
