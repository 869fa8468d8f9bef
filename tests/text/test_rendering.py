"""A stranger's chat template renders as the model's would, within limits that hold."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorax_spec.errors import InvalidArgument, Unavailable
from lorax_spec.text.chat import ChatTemplate
from lorax_spec.text.render_child import GROWTH, MOST_ADDED, SECONDS
from lorax_spec.text.rendering import Renderer
from lorax_spec.types import AdapterChat, Message

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
USUAL = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    renderer = Renderer(2)
    yield renderer
    renderer.close()


def render(renderer: Renderer, template: str, *contents: str) -> str:
    messages = [Message("user", content) for content in contents or ("hello",)]
    return renderer.render("me/mine", AdapterChat(template), TOKENS, messages)


def refusal(renderer: Renderer, template: str, *contents: str) -> str:
    with pytest.raises(InvalidArgument) as caught:
        render(renderer, template, *contents)
    assert caught.value.field == "messages"
    beginning = "the chat template of adapter 'me/mine' "
    assert caught.value.message.startswith(beginning) and len(caught.value.message) < 500
    return caught.value.message.removeprefix(beginning)


@settings(max_examples=100, deadline=None)
@given(
    turns=st.lists(st.tuples(st.text(), st.text()), min_size=1),
    tokens=st.dictionaries(st.sampled_from(["bos_token", "eos_token"]), st.text()),
)
def test_it_is_what_the_model_s_own_would_be(
    renderer: Renderer, turns: list[tuple[str, str]], tokens: dict[str, str]
) -> None:
    messages = [Message(*turn) for turn in turns]
    expected = ChatTemplate(USUAL, {**TOKENS, **tokens}).render(messages)
    assert renderer.render("a", AdapterChat(USUAL, tokens), TOKENS, messages) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "template",
    [
        LOOP,
        "{{ 10 ** (10 ** 8) }}",  # computed while it compiles
        "{% set n = 10 %}{{ n ** (n ** 8) }}",
        "{% macro m(n) %}{% for i in range(9) %}{{ m(n + 1) if n < 99 }}{% endfor %}{% endmacro %}"
        "{{ m(0) }}",
    ],
)
def test_what_never_ends_is_ended(renderer: Renderer, template: str) -> None:
    render(renderer, "warm")
    began = time.monotonic()
    problem = refusal(renderer, template)
    assert "takes longer than 1 s" in problem
    assert time.monotonic() - began < SECONDS + 2
    assert render(renderer, USUAL) == "<s><|user|>hello</s><|assistant|>"


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses these messages: roles must"),
        ("{{ raise_exception('x' * 9999) }}", "refuses these messages: xxx"),
        ("{{ raise_exception('\\ud800 alone') }}", "refuses these messages: ? alone"),
        ("{{ '\\ud800' }}", "surrogates not allowed"),
        ("{% for %}", "does not compile"),
        ("{{ " + "(" * 20000, "maximum recursion"),
        ("{{ 1 / 0 }}", "refuses these messages: division"),
        ("{{ messages.append(1) }}", "refuses these messages"),
        ("{{ ''.__class__.__mro__ }}{{ ''.__class__.__base__.__subclasses__() }}", "unsafe"),
        ("{{ 'x' * 10 ** 9 }}", "bytes of memory"),
        ("{{ 'x' * 2 * 10 ** 6 }}", "it gives more than"),
        ("{% for i in range(99999) %}{{ 'x' * 99 }}{% endfor %}", "it gives more than"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "maximum recursion"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
    ],
)
def test_what_goes_wrong_is_the_callers_error(renderer: Renderer, template: str, why: str) -> None:
    assert why in refusal(renderer, template)
    assert render(renderer, "{{ messages[0].content }}", "on") == "on"


def test_texts_may_be_as_long_as_their_messages(renderer: Renderer) -> None:
    long = "é" * (MOST_ADDED + 1)
    assert render(renderer, "{{ messages[0].content }}", long) == long
    twice = "{{ messages[0].content }}" * (GROWTH + 2)
    assert "it gives more than" in refusal(renderer, twice, long)


def test_an_endless_template_keeps_no_other_waiting(renderer: Renderer) -> None:
    """With a process to itself, the other is free."""
    for _ in range(2):
        render(renderer, USUAL)
    endless = threading.Thread(target=refusal, args=(renderer, LOOP))
    endless.start()
    time.sleep(0.1)
    for _ in range(20):
        render(renderer, USUAL)
    assert endless.is_alive(), "the others had to wait for it"
    endless.join()


def test_a_process_knows_no_secrets_and_ends_with_its_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    before = set(psutil.Process().children())
    renderer = Renderer()
    assert render(renderer, "a") == "a"
    (child,) = set(psutil.Process().children()) - before
    assert "HF_TOKEN" not in child.environ()
    assert child.nice() > os.nice(0) or os.nice(0) == 19
    child.kill()
    child.wait(5)
    assert render(renderer, "b") == "b", "a killed process is replaced"
    failed: list[BaseException] = []

    def endless() -> None:
        try:
            render(renderer, LOOP)
        except Unavailable as error:
            failed.append(error)

    thread = threading.Thread(target=endless)
    thread.start()
    time.sleep(0.1)
    renderer.close()
    thread.join(5)
    assert failed and set(psutil.Process().children()) == before
    with pytest.raises(Unavailable):
        render(renderer, "c")
