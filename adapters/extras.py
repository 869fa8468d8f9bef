"""What an adapter's folder says about texts: a chat template, tokens of its own.  Without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorax_spec.errors import AdapterMismatch
from lorax_spec.types import AdapterChat

TEMPLATE_FILE = "chat_template.jinja"
_OLD_TEMPLATE_FILE = "chat_template.json"
_CONFIG, _ADDED, _TOKENIZER = "tokenizer_config.json", "added_tokens.json", "tokenizer.json"
FILES = (TEMPLATE_FILE, _OLD_TEMPLATE_FILE, _CONFIG, _ADDED, _TOKENIZER)
_MAX_BYTES = 2**20
_MAX_TEMPLATE = 2**16
#: Special tokens beyond these are left out: so many, of so many characters.
_MAX_SPECIAL, _MAX_SPECIAL_TEXT = 32, 256
_SHOWN = 3


@dataclass(frozen=True)
class AdapterExtras:
    """``chat_template`` is Jinja's, empty where the folder has none; ``added_tokens`` are ids by
    text, of all tokens that the folder's tokenizer adds to its vocabulary; ``padding`` is the one
    that no text ever has; ``special_tokens`` are texts by names such as ``eos_token``."""

    chat_template: str = ""
    added_tokens: Mapping[str, int] = field(default_factory=dict)
    padding: str = ""
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    @property
    def chat(self) -> AdapterChat:
        if not self.chat_template:
            return AdapterChat()
        return AdapterChat(self.chat_template, self.special_tokens)


def read_extras(folder: Path) -> AdapterExtras:
    """Raises AdapterMismatch where a file is broken.

    Of a ``tokenizer.json``, which may be tens of megabytes, only the beginning is read, where its
    added tokens are.
    """
    config = _read_json(folder / _CONFIG)
    added: dict[str, int] = {}
    listed = _mapping(config.get("added_tokens_decoder"), _CONFIG)
    for number, token in listed.items():
        _add(added, _text(token), number, _CONFIG)
    for text, number in _read_json(folder / _ADDED).items():
        _add(added, text, number, _ADDED)
    for token in _beginning(folder / _TOKENIZER):
        _add(added, _text(token), token.get("id"), _TOKENIZER)
    special = _special_tokens(config)
    return AdapterExtras(_template(folder, config), added, _text(config.get("pad_token")), special)


def faults(extras: AdapterExtras, vocab_size: int) -> Iterator[str]:
    """Tokens that a model of ``vocab_size`` has no embeddings for."""
    beyond = {
        text: number
        for text, number in extras.added_tokens.items()
        if number >= vocab_size and text != extras.padding
    }
    if beyond:
        shown = ", ".join(f"{text!r} ({beyond[text]})" for text in list(beyond)[:_SHOWN])
        rest = f" and {len(beyond) - _SHOWN} more" if len(beyond) > _SHOWN else ""
        yield (
            f"its tokenizer adds {shown}{rest}, this model has embeddings for {vocab_size} tokens "
            "and more are not served"
        )


def _template(folder: Path, config: Mapping[str, Any]) -> str:
    template: object = _read_text(folder / TEMPLATE_FILE)
    if not template:
        old = _read_json(folder / _OLD_TEMPLATE_FILE)
        template = old.get("chat_template") or config.get("chat_template") or ""
    if isinstance(template, list):
        template = next(
            (
                one.get("template", "")
                for one in template
                if isinstance(one, dict) and one.get("name") == "default"
            ),
            "",
        )
    if not isinstance(template, str):
        raise AdapterMismatch("its chat template is not a text")
    if len(template) > _MAX_TEMPLATE:
        raise AdapterMismatch(f"its chat template is longer than {_MAX_TEMPLATE} characters")
    return _encodable(template)


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    texts = {
        _encodable(name): _encodable(_text(value))
        for name, value in config.items()
        if name.endswith("_token") and len(name) <= _MAX_SPECIAL_TEXT
    }
    kept = [one for one in texts.items() if 0 < len(one[1]) <= _MAX_SPECIAL_TEXT]
    return dict(kept[:_MAX_SPECIAL])


def _encodable(text: str) -> str:
    """JSON may hold half a surrogate pair, which goes over no wire."""
    return text.encode("utf-8", "replace").decode()


def _beginning(path: Path) -> list[dict[str, Any]]:
    """The list of added tokens of a ``tokenizer.json``; empty where it is not near the beginning,
    as tokenizers write it."""
    text = _read_text(path, whole=False)
    at = text.find('"added_tokens"')
    colon = text.find(":", at)
    if at < 0 or colon < 0:
        return []
    try:
        found, _ = json.JSONDecoder().raw_decode(text, text.index("[", colon))
    except (ValueError, RecursionError):
        raise AdapterMismatch(f"{path.name}: its added tokens cannot be read") from None
    return [token for token in found if isinstance(token, dict)]


def _add(added: dict[str, int], text: str, number: object, file: str) -> None:
    """``number`` may be written in figures."""
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) < 10:
        number = int(number)
    if type(number) is not int or not 0 <= number < 2**31 or not isinstance(text, str):
        raise AdapterMismatch(f"{file}: added token {text[:80]!r} has id {str(number)[:80]!r}")
    added[text] = number


def _text(token: object) -> str:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""


def _mapping(value: object, file: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AdapterMismatch(f"{file}: its added tokens are not an object")
    return value


def _read_json(path: Path) -> dict[str, Any]:
    if not (text := _read_text(path)):
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise AdapterMismatch(f"{path.name} is not JSON") from None
    if not isinstance(content, dict):
        raise AdapterMismatch(f"{path.name} is not a JSON object")
    return content


def _read_text(path: Path, *, whole: bool = True) -> str:
    """Empty where there is no such file; its beginning only unless ``whole``."""
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise AdapterMismatch(f"{path.name} cannot be read: {error.strerror}") from None
    if whole and len(content) > _MAX_BYTES:
        raise AdapterMismatch(f"{path.name} is longer than {_MAX_BYTES} bytes")
    return content.decode("utf-8", "replace")
