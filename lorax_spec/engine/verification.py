"""After a forward pass: which tokens it says, and what that means for caches and drafters."""

from __future__ import annotations

from collections.abc import Callable, Collection
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch

from lorax_spec.engine.batch import Batch
from lorax_spec.engine.drafting.drafter import Outcome
from lorax_spec.engine.drafting.drafting import Step
from lorax_spec.engine.sampling import Chosen, Place, choose
from lorax_spec.engine.scheduler import Scheduled
from lorax_spec.engine.sequence import Sequence
from lorax_spec.kernels.kv_cache import BLOCK_SIZE
from lorax_spec.speculation.tree import ROOT, DraftTree
from lorax_spec.speculation.verify import At, Walk, verify
from lorax_spec.types import FinishReason, RejectedGuess


@dataclass(frozen=True)
class Choice:
    """A chosen token; ``reason`` is set where nothing may follow it."""

    chosen: Chosen
    reason: FinishReason | None

    @property
    def token(self) -> int:
        return self.chosen.token

    @property
    def ends(self) -> bool:
        return self.reason is not None


@dataclass(frozen=True)
class Sampled:
    """A sequence whose next token a pass can choose: its rows' place among the kept ones."""

    scheduled: Scheduled
    first_row: int

    @property
    def sequence(self) -> Sequence:
        return self.scheduled.sequence


#: Walks all drafts of a step: (rows, raw logits [kept rows, vocabulary], end tokens).
Walks = Callable[[Rows[Sampled], torch.Tensor, Collection[int]], list[Walk[Choice]]]


def sampled(plan: Rows[Scheduled], batch: Batch) -> list[Sampled]:
    """Those of a plan that choose a token."""
    return [
        Sampled(scheduled, first)
        for scheduled, first in zip(plan, batch.first_kept, strict=True)
        if scheduled.samples
    ]


def finish_reason(
    sequence: Sequence, token: int, length: int, eos: Collection[int]
) -> FinishReason | None:
    """Why nothing may follow ``token``, with which the sequence has ``length`` tokens."""
    # A grammar permits an end only where the text is complete, and nothing after it.
    constrained = sequence.compiling is not None
    if token in eos and (constrained or not sequence.request.parameters.ignore_eos_token):
        return FinishReason.EOS_TOKEN
    return FinishReason.LENGTH if length >= sequence.limit else None


def walk_drafts(
    rows: Rows[Sampled], logits: torch.Tensor, eos: Collection[int]
) -> list[Walk[Choice]]:
    """Walk every draft with the tokens that the raw ``logits`` [kept rows, vocabulary] and the
    sequence's own rule choose; histories and grammars advance along."""
    lengths = [len(one.sequence.tokens) for one in rows]

    def choose_at(places: list[At]) -> list[Choice]:
        chosen_from = []
        for place in places:
            one = rows[place.tree]
            sequence, row = one.sequence, one.first_row + place.node - ROOT
            banned = sequence.grammar.banned() if sequence.grammar is not None else None
            position = lengths[place.tree]
            rule, history, noise = sequence.rule, sequence.history, sequence.noise
            chosen_from.append(Place(row, position, rule, history, banned, noise))
        choices = []
        for place, chosen in zip(places, choose(logits, chosen_from), strict=True):
            sequence = rows[place.tree].sequence
            lengths[place.tree] += 1
            if sequence.history is not None:
                sequence.history.advance(chosen.token)
            if sequence.grammar is not None:
                sequence.grammar.follow(chosen.token)
            reason = finish_reason(sequence, chosen.token, lengths[place.tree], eos)
            choices.append(Choice(chosen, reason))
        return choices

    return verify([one.scheduled.draft for one in rows], choose_at)


def note_prompts(plan: Rows[Scheduled], batch: Batch, logits: torch.Tensor) -> None:
    """Log-probabilities of prompt tokens, where a request wants them."""
    for scheduled, first_kept in zip(plan, batch.first_kept, strict=True):
        sequence = scheduled.sequence
        if sequence.prefill_logprobs is None or sequence.progress.first_token:
            continue
        following = sequence.tokens[scheduled.start + 1 : scheduled.start + scheduled.count + 1]
        following = following[: max(0, sequence.prompt_length - scheduled.start - 1)]
        first = first_kept - scheduled.count + 1
        rows = logits[first : first + len(following)].log_softmax(-1)
        targets = torch.tensor(following, dtype=torch.int64, device=rows.device)[:, None]
        sequence.prefill_logprobs += rows.gather(1, targets)[:, 0].tolist()


def moves(rows: Rows[Sampled], walks: Rows[Walk[Choice]]) -> tuple[list[int], list[int]]:
    """Cache slots of accepted nodes, and those where their positions belong."""
    source: list[int] = []
    target: list[int] = []
    for one, walk in zip(rows, walks, strict=True):
        blocks, known = one.sequence.blocks, len(one.sequence.tokens)
        for depth, node in enumerate(walk.nodes):
            if depth != node:
                source.append(_slot(blocks, known + node))
                target.append(_slot(blocks, known + depth))
    return source, target


def rejected_guesses(draft: DraftTree, accepted: Rows[int]) -> tuple[RejectedGuess, ...]:
    """Every node of a draft but the accepted ones."""
    return tuple(
        RejectedGuess(draft.depths[node], draft.tokens[node], draft.drafters[node])
        for node in range(len(draft))
        if node not in accepted
    )


def outcomes(rows: Rows[Sampled], walks: Rows[Walk[Choice]], logits: torch.Tensor) -> list[Outcome]:
    """What became of the drafts."""
    return [
        Outcome(
            one.sequence,
            draft,
            logits[one.first_row : one.first_row + len(draft) + 1],
            walk.nodes,
        )
        for one, walk in zip(rows, walks, strict=True)
        if (draft := one.scheduled.draft)
    ]


def figures_of(plan: Rows[Scheduled], walks: Rows[Walk[Choice]]) -> Step:
    """What a step did, for those who decide on the next drafts; asked before it is committed."""
    contexts = [scheduled.start + scheduled.count for scheduled in plan]
    for scheduled in plan:
        further = len(scheduled.draft.paths) - 1 if scheduled.draft else 0
        contexts += [scheduled.start + scheduled.count] * further
    return Step(
        rows=sum(scheduled.count + len(scheduled.draft) for scheduled in plan),
        drafted=sum(len(scheduled.draft) for scheduled in plan),
        scheduled=len(plan),
        sequences=len(walks),
        tokens=sum(len(walk.choices) for walk in walks),
        contexts=contexts,
    )


def _slot(blocks: Rows[int], index: int) -> int:
    return blocks[index // BLOCK_SIZE] * BLOCK_SIZE + index % BLOCK_SIZE
