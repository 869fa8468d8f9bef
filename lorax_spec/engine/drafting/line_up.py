"""The drafters of an engine, from the cheapest to the dearest."""

from __future__ import annotations

from collections.abc import Callable

from lorax_spec.engine.clock import clock_of
from lorax_spec.engine.drafting.draft_model_loading import load_draft_model
from lorax_spec.engine.drafting.drafter import Drafter
from lorax_spec.engine.drafting.grammar import GrammarDrafter
from lorax_spec.engine.drafting.hydra import HydraDrafter
from lorax_spec.engine.drafting.level_cost import LevelCost
from lorax_spec.engine.drafting.lookahead import LookaheadDrafter
from lorax_spec.engine.drafting.lookup import PromptLookupDrafter
from lorax_spec.engine.drafting.medusa import MedusaDrafter, StatesOf, one_by_one
from lorax_spec.engine.loading import Loaded
from lorax_spec.speculation.cost import StepCost

#: Makes an engine's drafters, from the cheapest to the dearest, from its model and the cost of
#: its steps.
LineUp = Callable[[Loaded, StepCost], list[Drafter]]


def line_up(loaded: Loaded, cost: StepCost) -> list[Drafter]:
    """What an engine drafts with; ``cost``: of its steps."""
    model, config = loaded.model, loaded.config
    drafters: list[Drafter] = [
        GrammarDrafter(),
        PromptLookupDrafter(
            config.lookup_min_match, config.lookup_max_match, config.lookup_pool_tokens
        ),
        LookaheadDrafter(),
        MedusaDrafter(model, states_of=_states_of(loaded.kernels)),
        HydraDrafter(model, cost=LevelCost(clock_of(model.device), cost.forward)),
    ]
    if config.draft_model_id is not None:
        drafters.append(load_draft_model(loaded, cost))
    return drafters


def _states_of(kernels: bool) -> StatesOf:
    if not kernels:
        return one_by_one
    from lorax_spec.engine.drafting.medusa_at_once import all_at_once

    return all_at_once
