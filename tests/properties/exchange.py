"""Two hundred adapters that can change, fail and be forbidden, and what peft makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lorax_spec import embedded
from lorax_spec.adapters.local_source import LocalSource
from lorax_spec.adapters.source import Location, scope_of
from lorax_spec.errors import PermissionDenied, Unavailable
from lorax_spec.types import AdapterRef
from tests.conformance.reference import Reference

RANKS = (2, 4, 8)
NAMES = [f"a{i:03}" for i in range(200)]
#: These want a token.
PRIVATE = frozenset(NAMES[::7])
TOKEN = "a token"


class Shelf:
    """Folders of LoRAs: the embedded ones, cut to a rank and perturbed by a seed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seeds = dict.fromkeys(NAMES, 0)
        bundle = embedded.path() / "adapters"
        self._models = [
            (
                json.loads((bundle / name / "adapter_config.json").read_text()),
                load_file(bundle / name / "adapter_model.safetensors"),
            )
            for name in ("pirate", "tests")
        ]
        for name in NAMES:
            self.write(name, 0)

    @staticmethod
    def rank(name: str) -> int:
        return RANKS[NAMES.index(name) % len(RANKS)]

    def write(self, name: str, seed: int) -> None:
        """Another content for every name and seed; replaces what was there, file by file."""
        number, rank, folder = NAMES.index(name), self.rank(name), self.root / name
        config, model = self._models[number % 2]
        noise = torch.Generator().manual_seed(1000 * seed + number)
        tensors = {}
        for key, tensor in model.items():
            part = tensor[:rank] if "lora_A" in key else tensor[:, :rank]
            scale = 0.3 * float(part.std())
            tensors[key] = (part + scale * torch.randn(part.shape, generator=noise)).contiguous()
        folder.mkdir(exist_ok=True)
        save_file(tensors, folder / "next")
        told = config | {"r": rank, "lora_alpha": 2 * rank}
        (folder / "adapter_config.json").write_text(json.dumps(told))
        (folder / "next").replace(folder / "adapter_model.safetensors")
        self.seeds[name] = seed

    def nbytes(self, name: str) -> int:
        """Of its tensors in float32."""
        tensors = load_file(self.root / name / "adapter_model.safetensors")
        return 4 * sum(tensor.numel() for tensor in tensors.values())


class Exchange:
    """A source that asks for tokens, and whose line to some adapters may be cut."""

    def __init__(self, root: Path) -> None:
        self._local = LocalSource({"": root})
        self.valid = {TOKEN}
        self.cut: set[str] = set()
        self._seen: set[tuple[str, str]] = set()
        self._refused: set[tuple[str, str]] = set()

    def expire(self) -> None:
        """No token is good any more."""
        self.valid.clear()
        self._seen.clear()

    def renew(self) -> None:
        self.valid.add(TOKEN)
        self._refused.clear()

    def resolve(self, ref: AdapterRef) -> Location | None:
        if ref.adapter_id not in PRIVATE:
            return self._local.resolve(ref)
        who = (ref.adapter_id, ref.api_token)
        if who in self._refused:
            raise PermissionDenied(f"{ref.adapter_id} is private")
        return self._scoped(ref) if who in self._seen else None

    def look_up(self, ref: AdapterRef) -> Location:
        who = (ref.adapter_id, ref.api_token)
        if ref.adapter_id in PRIVATE and ref.api_token not in self.valid:
            self._refused.add(who)
            raise PermissionDenied(f"{ref.adapter_id} is private")
        self._seen.add(who)
        return self._scoped(ref)

    def host(self, ref: AdapterRef) -> str:
        return "exchange"

    def fetch(self, location: Location, ref: AdapterRef) -> Path:
        if location.adapter_id in self.cut:
            raise Unavailable("the line is cut")
        return self._local.fetch(location, ref)

    @contextmanager
    def opened(self, location: Location, ref: AdapterRef) -> Iterator[Path]:
        with self._local.opened(location, ref) as folder:
            yield folder

    def list(self) -> list[str]:
        return self._local.list()

    def _scoped(self, ref: AdapterRef) -> Location:
        found = self._local.resolve(AdapterRef(ref.adapter_id))
        return replace(found, scope=scope_of(ref.api_token))


class Peft:
    """Greedy texts by peft itself, of the contents that lie on the shelf now."""

    def __init__(self, shelf: Shelf, eos: tuple[int, ...]) -> None:
        self._shelf, self._eos = shelf, eos
        base = AutoModelForCausalLM.from_pretrained(embedded.path() / "base", dtype=torch.float32)
        first, *others = {shelf.rank(name): name for name in NAMES[:3]}.values()
        self._model = PeftModel.from_pretrained(base, shelf.root / first, f"r{shelf.rank(first)}")
        for name in others:
            config = LoraConfig.from_pretrained(shelf.root / name)
            self._model.add_adapter(f"r{shelf.rank(name)}", config)
        self._model.eval()
        self._known: dict[tuple[str, int, tuple[int, ...]], list[int]] = {}

    def text(self, name: str, prompt: tuple[int, ...], count: int) -> list[int]:
        key = (name, self._shelf.seeds[name], prompt)
        if key not in self._known:
            slot = f"r{self._shelf.rank(name)}"
            weights = load_peft_weights(str(self._shelf.root / name), device="cpu")
            set_peft_model_state_dict(self._model, weights, slot)
            self._model.set_adapter(slot)
            self._known[key] = Reference(self._model, self._eos).greedy(prompt, count)
        return self._known[key]
