"""From ``draft_model_id`` to a drafter: the small model, checked against the one it helps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, PreTrainedModel

from lorax_spec.engine.blocks import blocks_for
from lorax_spec.engine.drafting.draft_model import DraftModelDrafter
from lorax_spec.engine.loading import Loaded, model_folder
from lorax_spec.engine.model import LanguageModel
from lorax_spec.engine.ops_choice import choose_ops, prepare, uses_kernels
from lorax_spec.engine.warmup import warm_up
from lorax_spec.errors import InvalidArgument
from lorax_spec.speculation.cost import StepCost

#: The small model's cache takes at most this share of the large one's bytes.
CACHE_SHARE = 1 / 8


def load_draft_model(loaded: Loaded, cost: StepCost) -> DraftModelDrafter:
    """The drafter of ``loaded.config.draft_model_id``, in the large model's dtype, on its device.

    Its cache holds as many tokens as the large model's, as far as CACHE_SHARE of that one's bytes
    allows, and one request of ``max_total_tokens`` in any case.  ``cost``: of the large model's
    steps; the small one's are measured here.

    Raises:
        InvalidArgument: there is no such model, or it has another vocabulary.
    """
    config, target = loaded.config, loaded.model
    assert config.draft_model_id is not None
    path = _folder(config.draft_model_id, config.draft_model_revision)
    hf_model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=target.dtype)
    check_vocabulary(hf_model, path, target.vocabulary, Path(loaded.info.model_path))
    hf_model = hf_model.to(target.device)
    kernels = uses_kernels(config, target.device)
    prepare(hf_model, kernels=kernels)
    most = loaded.info.max_total_tokens
    ops = choose_ops(config, target.device, most, kernels=kernels, exact=False)
    model = LanguageModel(hf_model, ops)
    blocks = cache_blocks(
        loaded.blocks,
        blocks_for(loaded.info.max_total_tokens) + 1,
        model.kv_bytes_per_token() / target.kv_bytes_per_token(),
    )
    model.allocate_cache(blocks)
    own_cost = warm_up(model, loaded.adapters.lease(()))

    def price(rows: int) -> float:
        return own_cost.seconds(rows) / cost.seconds(rows)

    return DraftModelDrafter(model, blocks, price)


def cache_blocks(target_blocks: int, fewest: int, relative_bytes: float) -> int:
    """Blocks of the small model's cache; ``relative_bytes``: of its tokens, to the large one's."""
    affordable = int(target_blocks * CACHE_SHARE / relative_bytes)
    return max(fewest, min(target_blocks, affordable))


def check_vocabulary(
    model: PreTrainedModel, path: Path, vocabulary: int, target_path: Path
) -> None:
    """Raise InvalidArgument unless token ids mean the same to the small model in ``path``.

    Vocabularies must be of one size; where both models bring a ``tokenizer.json``, these must name
    the same tokens.
    """
    own = int(model.config.get_text_config().vocab_size)
    if own != vocabulary:
        raise _refused(
            path, f"has a vocabulary of {own} tokens, the model it should draft for {vocabulary}"
        )
    files = [folder / "tokenizer.json" for folder in (path, target_path)]
    if all(file.is_file() for file in files):
        first, second = (_named_tokens(file) for file in files)
        if first != second:
            raise _refused(path, f"names its tokens otherwise than {target_path}")


def _folder(model_id: str, revision: str | None) -> Path:
    try:
        return model_folder(model_id, revision)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"draft model {model_id}: {error}", "draft_model_id") from error


def _named_tokens(file: Path) -> tuple[Any, dict[int, str]]:
    """A tokenizer's vocabulary, as its kind of model writes it, and the tokens added to it."""
    content = json.loads(file.read_text(encoding="utf-8"))
    added = {int(token["id"]): token["content"] for token in content.get("added_tokens") or ()}
    return content["model"].get("vocab"), added


def _refused(path: Path, reason: str) -> InvalidArgument:
    return InvalidArgument(f"draft model {path} {reason}", "draft_model_id")
