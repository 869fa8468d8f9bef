"""A model's tokenizer, read from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
from tokenizers import Tokenizer

from lorax_spec.errors import InvalidArgument
from lorax_spec.text.chat import ChatTemplate
from lorax_spec.types import InputToken, Message


class TextTokenizer:
    """Text to token ids and back.  Safe to share between threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        eos_token_ids: Sequence[int] = (),
        special_tokens: Mapping[str, str] | None = None,
        chat_template: str | None = None,
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        #: Their texts, by names such as ``eos_token``.
        self.special_tokens: Mapping[str, str] = dict(special_tokens or {})
        self._template_source = chat_template
        self.eos_token_ids = frozenset(eos_token_ids)
        self.special_token_ids = frozenset(
            token_id
            for token_id, token in tokenizer.get_added_tokens_decoder().items()
            if token.special
        )
        self.vocab_size: int = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())

    @classmethod
    def load(cls, folder: str | Path) -> TextTokenizer:
        """Read tokenizer.json and, where they are, the configurations beside it.

        The ids that end a text come from generation_config.json, else config.json, else from the
        tokenizer's own ``eos_token``.  Raises FileNotFoundError without a tokenizer.json.
        """
        root = Path(folder)
        path = root / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(f"{root} has no tokenizer.json")
        tokenizer = Tokenizer.from_file(str(path))
        config = _read_json(root / "tokenizer_config.json")
        special_tokens = _special_tokens(config)
        eos = _eos_from_configs(root)
        if not eos and "eos_token" in special_tokens:
            token_id = tokenizer.token_to_id(special_tokens["eos_token"])
            eos = () if token_id is None else (token_id,)
        return cls(
            tokenizer,
            eos_token_ids=eos,
            special_tokens=special_tokens,
            chat_template=_chat_template(root, config),
        )

    def encode(
        self, text: str, add_special_tokens: bool = True, truncate: int | None = None
    ) -> list[int]:
        """The ids of ``text``; with ``truncate`` only so many of the last ones."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids if truncate is None else ids[-truncate:]

    def pieces(self, text: str, add_special_tokens: bool = True) -> list[InputToken]:
        """The tokens of ``text`` with the stretch of text each stands for.

        A token that the tokenizer adds by itself covers nothing and is shown by its name.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return [
            InputToken(token_id, text[start:stop] or token, start, stop)
            for token_id, token, (start, stop) in zip(
                encoding.ids, encoding.tokens, encoding.offsets, strict=True
            )
        ]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def apply_chat_template(
        self, messages: Sequence[Message], add_generation_prompt: bool = True
    ) -> str:
        """The prompt for a conversation; encode it without special tokens, it has its own.

        Raises InvalidArgument where there is no template or it refuses the messages.
        """
        if self._template is None:
            raise InvalidArgument("this model has no chat template; send `inputs`", "messages")
        return self._template.render(messages, add_generation_prompt)

    @cached_property
    def _template(self) -> ChatTemplate | None:
        if self._template_source is None:
            return None
        try:
            return ChatTemplate(self._template_source, self.special_tokens)
        except jinja2.TemplateSyntaxError as error:
            raise InvalidArgument(
                f"this model's chat template does not compile: {error}", "messages"
            ) from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    tokens = {}
    for name, value in config.items():
        if name.endswith("_token") and not name.startswith("add_"):
            text = value.get("content") if isinstance(value, Mapping) else value
            if isinstance(text, str):
                tokens[name] = text
    return tokens


def _eos_from_configs(root: Path) -> tuple[int, ...]:
    for name in ("generation_config.json", "config.json"):
        value = _read_json(root / name).get("eos_token_id")
        if value is not None:
            return tuple(value) if isinstance(value, list) else (value,)
    return ()


def _chat_template(root: Path, config: Mapping[str, Any]) -> str | None:
    path = root / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None
