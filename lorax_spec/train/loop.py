"""The training loop: heads learn to look ahead, the base stays as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from lorax_spec.errors import InvalidArgument
from lorax_spec.train.data import IGNORED, TokenStream

#: Rows that go through an lm head at once: bounds the logits held for one backward pass.
ROWS_AT_ONCE = 2048
HEAD_DECAY = 0.8
HOLD_SHARE = 0.4


class Guesser(Protocol):
    """Heads that guess: MedusaHeads, or HydraHeads, which read the tokens in between."""

    reads_tokens: bool

    def __len__(self) -> int: ...

    def logits(
        self,
        head: int,
        hidden: torch.Tensor,
        lm_head: nn.Module,
        embedded: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits [n, vocab] of one head from last hidden states [n, hidden] and the embeddings
        [n, >= head + 1, hidden] of the tokens that follow, where these heads read them."""
        ...


class Heads(Guesser, Protocol):
    """Heads that learn."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...


@dataclass(frozen=True)
class Plan:
    """What decides the outcome of a run, apart from model, heads and text."""

    steps: int
    batch_size: int = 8
    sequence_length: int = 512
    learning_rate: float = 2e-3
    warmup_steps: int = 20
    seed: int = 0
    #: Learn the base's own distribution at the guessed place instead of the text's token.
    soft_labels: bool = False

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.sequence_length

    def rate(self, step: int) -> float:
        """Warm up, hold, then fall linearly to zero."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        left = (self.steps - step) / max(1, self.steps)
        return self.learning_rate * warm * min(1.0, left / (1 - HOLD_SHARE))


class HeadTrainer:
    """Heads, their optimizer and the state of the draw: everything that a checkpoint holds."""

    def __init__(self, model: Any, heads: Heads, stream: TokenStream, plan: Plan) -> None:
        self.window = plan.sequence_length + 1 + len(heads)
        if len(stream) <= self.window:
            text = f"{len(stream)} tokens of text are too few for windows of {self.window}"
            raise InvalidArgument(text, field="data")
        self.model, self.heads, self.stream, self.plan = model, heads, stream, plan
        self.optimizer = torch.optim.AdamW(
            heads.parameters(), lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.step = 0

    def train_step(self) -> list[float]:
        """One update; returns each head's mean cross entropy before it."""
        last = len(self.stream) - self.window
        starts = torch.randint(0, last, (self.plan.batch_size,), generator=self.generator)
        ids, labels = self.stream.windows(starts.tolist(), self.window)
        hidden = last_hidden(self.model, ids[:, :-1])
        losses = [self._head_backward(head, ids, hidden, labels) for head in range(len(self.heads))]
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(self.step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return losses

    def _head_backward(
        self, head: int, ids: torch.Tensor, hidden: torch.Tensor, labels: torch.Tensor
    ) -> float:
        """Add one head's gradient, a slice of the rows at a time; returns its mean loss."""
        length = self.plan.sequence_length
        rows, targets = shifted(hidden[:, :length], labels, head + 2)
        kept = torch.nonzero(targets != IGNORED)[:, 0]
        learned = max(1, len(kept))
        # The row from which the base itself chooses the token that this head guesses.
        bases = hidden[:, head + 1 : head + 1 + length].flatten(0, 1)
        path = following(ids, length, head + 1).to(hidden.device)
        lm_head = self.model.get_output_embeddings()
        total = 0.0
        for some in torch.split(kept, ROWS_AT_ONCE):
            embedded = embeddings(self.model, path[some]) if self.heads.reads_tokens else None
            logits = self.heads.logits(head, rows[some], lm_head, embedded).float()
            wanted = targets[some]
            if self.plan.soft_labels:
                with torch.no_grad():
                    wanted = lm_head(bases[some]).float().softmax(-1)
            loss = F.cross_entropy(logits, wanted, reduction="sum")
            torch.autograd.backward(loss * (HEAD_DECAY**head / learned))
            total += float(loss.detach())
        return total / learned

    def save(self, checkpoint: Path) -> None:
        """Write everything needed to go on as if never stopped; atomic."""
        state = {
            "plan": asdict(self.plan),
            "step": self.step,
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
        }
        draft = checkpoint.with_name(checkpoint.name + ".part")
        torch.save(state, draft)
        draft.rename(checkpoint)

    def load(self, checkpoint: Path) -> None:
        """Go on from ``checkpoint``; raises InvalidArgument where it is of another plan."""
        state = torch.load(checkpoint, weights_only=True)
        mine, theirs = asdict(self.plan), state["plan"]
        other = {
            k: f"{theirs.get(k)} there, {v} now" for k, v in mine.items() if theirs.get(k) != v
        }
        if other:
            raise InvalidArgument(f"{checkpoint} is of another run: {other}", field="resume")
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step = state["step"]


def train(
    trainer: HeadTrainer,
    *,
    on_step: Callable[[int, list[float]], None],
    checkpoint: Path | None = None,
    checkpoint_every: int = 0,
) -> None:
    """Run to the plan's end.  ``on_step`` gets the steps done and each head's loss.

    A KeyboardInterrupt leaves through here, after a checkpoint of the last whole step.
    """
    try:
        while trainer.step < trainer.plan.steps:
            losses = trainer.train_step()
            if not math.isfinite(sum(losses)):
                raise ArithmeticError(f"the loss is {losses} at step {trainer.step}")
            on_step(trainer.step, losses)
            if checkpoint and checkpoint_every and trainer.step % checkpoint_every == 0:
                trainer.save(checkpoint)
    except KeyboardInterrupt:
        if checkpoint:
            trainer.save(checkpoint)
        raise


@torch.no_grad()
def last_hidden(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The base's last hidden states [batch, length, hidden], after its final norm."""
    output = model.base_model(ids.to(model.device), use_cache=False)
    hidden: torch.Tensor = output.last_hidden_state
    return hidden


def shifted(
    hidden: torch.Tensor, labels: torch.Tensor, shift: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows [n, hidden] of every position, and the labels [n] ``shift`` places further on."""
    length = hidden.shape[1]
    targets = labels[:, shift : shift + length].reshape(-1).to(hidden.device)
    return hidden.flatten(0, 1), targets


def following(ids: torch.Tensor, length: int, count: int) -> torch.Tensor:
    """The ``count`` tokens after each of the first positions, [batch * length, count]."""
    columns = [ids[:, 1 + place : 1 + place + length] for place in range(count)]
    return torch.stack(columns, -1).flatten(0, 1)


def embeddings(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The base's input embeddings [..., hidden] as they are stored, in its dtype."""
    return F.embedding(ids, model.get_input_embeddings().weight)
