"""Training text: documents from files, and the token streams that training draws windows from."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lorax_spec.errors import InvalidArgument

#: The label of a token that no head is asked to guess (what cross_entropy ignores).
IGNORED = -100
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py", ".jsonl")
HELD_OUT_SHARE = 0.05


@dataclass(frozen=True)
class Document:
    """Token ids, of which the first ``prompt_length`` are given and not learned."""

    ids: tuple[int, ...]
    prompt_length: int = 0


@dataclass(frozen=True)
class TokenStream:
    """Documents end to end: ``ids`` [n] and ``labels`` [n], equal but for ignored prompts."""

    ids: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, ids: Sequence[int] | Any) -> TokenStream:
        """A stream of which every token is learned."""
        tensor = torch.as_tensor(ids, dtype=torch.int32)
        return cls(tensor, tensor)

    @classmethod
    def join(cls, documents: Iterable[Document]) -> TokenStream:
        ids: list[int] = []
        labels: list[int] = []
        for document in documents:
            ids += document.ids
            labels += [IGNORED] * document.prompt_length
            labels += document.ids[document.prompt_length :]
        return cls(torch.tensor(ids, dtype=torch.int32), torch.tensor(labels, dtype=torch.int32))

    def __len__(self) -> int:
        return len(self.ids)

    def windows(self, starts: Sequence[int], length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and labels, int64 [windows, length]."""
        rows = torch.tensor(starts)[:, None] + torch.arange(length)
        return self.ids[rows].long(), self.labels[rows].long()

    def spaced(self, windows: int, length: int) -> list[int]:
        """Evenly spaced starts of at most ``windows`` windows that do not overlap."""
        count = max(1, min(windows, len(self) // length))
        return torch.linspace(0, len(self) - length, count).long().tolist()


def read_documents(paths: Sequence[Path], tokenizer: Any) -> list[Document]:
    """Text files, folders of them, and JSONL with ``text``, ``prompt`` + ``completion`` or
    ``messages`` on each line.

    Raises InvalidArgument for a path that is not there and a line that is none of the three.
    """
    documents = [d for path in paths for d in _read(path, tokenizer)]
    return [document for document in documents if len(document.ids) > document.prompt_length]


def _read(path: Path, tokenizer: Any) -> Iterator[Document]:
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.suffix in TEXT_SUFFIXES):
            yield from _read(file, tokenizer)
    elif not path.is_file():
        raise InvalidArgument(f"no file or folder {path}", field="data")
    elif path.suffix == ".jsonl":
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip():
                yield _from_json(line, tokenizer, f"{path}:{number}")
    else:
        text = path.read_text(encoding="utf-8", errors="replace")
        yield Document((*tokenizer(text)["input_ids"], tokenizer.eos_token_id))


def _from_json(line: str, tokenizer: Any, where: str) -> Document:
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        raise InvalidArgument(f"{where}: not JSON: {error}", field="data") from error
    match item:
        case {"text": str(text)}:
            return Document((*tokenizer(text)["input_ids"], tokenizer.eos_token_id))
        case {"prompt": str(prompt), "completion": str(completion)}:
            given = tokenizer(prompt)["input_ids"]
            answer = tokenizer(completion, add_special_tokens=False)["input_ids"]
            return Document((*given, *answer, tokenizer.eos_token_id), len(given))
        case {"messages": [*messages]} if messages and messages[-1].get("role") == "assistant":
            whole = _templated(tokenizer, messages, answering=False)
            given = _templated(tokenizer, messages[:-1], answering=True)
            return Document(tuple(whole), len(given))
    raise InvalidArgument(
        f"{where}: expected text, prompt and completion, or messages that end with an assistant's",
        field="data",
    )


def _templated(tokenizer: Any, messages: list[dict[str, str]], *, answering: bool) -> list[int]:
    ids: list[int] = tokenizer.apply_chat_template(
        messages, add_generation_prompt=answering, tokenize=True, return_dict=False
    )
    return ids


def split(documents: Sequence[Document], seed: int) -> tuple[list[Document], list[Document]]:
    """(training, held out): whole documents where there are many, else the tail of each."""
    if len(documents) >= 1 / HELD_OUT_SHARE:
        order = list(documents)
        random.Random(seed).shuffle(order)
        held_out = max(1, round(len(order) * HELD_OUT_SHARE))
        return order[held_out:], order[:held_out]
    kept, tails = [], []
    for document in documents:
        learned = len(document.ids) - document.prompt_length
        cut = len(document.ids) - max(1, round(learned * HELD_OUT_SHARE))
        kept.append(Document(document.ids[:cut], document.prompt_length))
        tails.append(Document(document.ids[cut:]))
    return kept, tails


def prompts(documents: Sequence[Document], count: int, length: int) -> list[list[int]]:
    """Up to ``count`` prompts: a document's own where it has one, else ``length`` of its tokens.

    Where there are fewer documents than prompts wanted, long ones give several.
    """
    found: list[list[int]] = [
        list(d.ids[: d.prompt_length]) for d in documents if d.prompt_length > 0
    ]
    texts = [d for d in documents if d.prompt_length == 0 and len(d.ids) >= length]
    if texts and len(found) < count:
        stream = [token for document in texts for token in document.ids]
        wanted = min(count - len(found), len(stream) // length)
        step = max(1, (len(stream) - length) // max(1, wanted - 1))
        found += [stream[i * step : i * step + length] for i in range(wanted)]
    stride = max(1, len(found) // count)
    return found[::stride][:count]
