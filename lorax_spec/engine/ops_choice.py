"""What an engine computes with: decided once, from its options and the machine."""

from __future__ import annotations

import logging
from importlib.util import find_spec

import torch
from transformers import PreTrainedModel

from lorax_spec.engine.config import EngineConfig
from lorax_spec.engine.fused import fuse_norms
from lorax_spec.engine.packed import pack_linears, shared_inputs
from lorax_spec.engine.plain_ops import plain_ops
from lorax_spec.engine.step_ops import OpsOf
from lorax_spec.engine.verification import Walks, walk_drafts
from lorax_spec.errors import InvalidArgument

logger = logging.getLogger(__name__)


def uses_kernels(config: EngineConfig, device: torch.device) -> bool:
    """Whether steps are computed by kernels, and not in plain torch.

    Raises:
        InvalidArgument: ``config.kernels`` cannot be met here, or is no choice.
    """
    kernels = config.kernels
    if kernels not in ("auto", "torch", "triton"):
        raise _refused(f"{kernels!r} is none of auto, torch and triton")
    if kernels == "torch" or (kernels == "auto" and device.type != "cuda"):
        return False
    if find_spec("triton") is None:
        if kernels == "triton":
            raise _refused("triton is not installed: pip install 'lorax-spec[cuda]'")
        logger.warning("triton is not installed; steps run in plain torch, which is slow here")
        return False
    if device.type != "cuda" and not _interpreted():
        raise _refused("on a CPU they run in Triton's interpreter only: set TRITON_INTERPRET=1")
    return True


def prepare(model: PreTrainedModel, *, kernels: bool, exact: bool = False) -> None:
    """Put faster ways into its modules, from outside, where they compute the same.

    ``exact``, of kernels: every product has the same bits for a row in any batch; raises
    InvalidArgument for a model with products that have not.
    """
    if kernels:
        from lorax_spec.engine.fused_paths import not_exact, use_kernels

        replaced = use_kernels(model, exact=exact)
        logger.info("%d places of the model are computed by kernels", len(replaced))
        if exact and (others := not_exact(model)):
            raise InvalidArgument(
                f"--deterministic: {others[0]} is computed with what depends on the batch, "
                f"as are {len(others) - 1} others",
                field="deterministic",
            )
        return
    fuse_norms(model)
    if model.device.type == "cpu":
        pack_linears(model, shared_inputs(model))


def choose_ops(
    config: EngineConfig,
    device: torch.device,
    most_tokens: int,
    *,
    kernels: bool,
    exact: bool,
    row_floor: int = 1,
) -> OpsOf:
    """``most_tokens``: no sequence is longer; the others as in ``TileLayout``."""
    if not kernels:
        return plain_ops(exact=exact, row_floor=row_floor)
    from lorax_spec.engine.kernel_ops import kernel_ops

    graphs = device.type == "cuda" and not config.eager
    how = "with" if graphs else "without"
    logger.info("attention, cache and LoRA: Triton kernels on %s %s graphs", device, how)
    return kernel_ops(
        exact=exact, most_tokens=most_tokens, slots=config.max_batch_size, graphs=graphs
    )


def walks_of(kernels: bool, vocabulary: int, device: torch.device) -> Walks:
    """How drafts are walked: on the device where kernels are used."""
    if not kernels:
        return walk_drafts
    from lorax_spec.engine.device_walks import DeviceWalks

    return DeviceWalks(vocabulary, device)


def _interpreted() -> bool:
    from lorax_spec.kernels.triton.variant import INTERPRETED

    return INTERPRETED


def _refused(reason: str) -> InvalidArgument:
    return InvalidArgument(f"--kernels: {reason}", field="kernels")
