from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lorax_spec.errors import InvalidArgument
from lorax_spec.train import loop
from lorax_spec.train.data import IGNORED, TokenStream
from lorax_spec.train.heads import MedusaHeads
from lorax_spec.train.hydra import HydraHeads
from lorax_spec.train.loop import HEAD_DECAY, HeadTrainer, Plan, last_hidden, train

PLAN = Plan(steps=12, batch_size=2, sequence_length=16, learning_rate=1e-2, warmup_steps=2)


def stream() -> TokenStream:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 64, (400,), generator=generator, dtype=torch.int32)
    labels = ids.clone()
    labels[100:130] = IGNORED
    return TokenStream(ids, labels)


def trainer(model: Any, plan: Plan = PLAN, hydra: bool = False) -> HeadTrainer:
    torch.manual_seed(0)
    heads = HydraHeads(32, 3, 24) if hydra else MedusaHeads(32, 3)
    return HeadTrainer(model, heads, stream(), plan)


def weights(some: HeadTrainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in some.heads.parameters()])


def silent(step: int, losses: list[float]) -> None:
    pass


@pytest.mark.parametrize("hydra", [False, True], ids=["medusa", "hydra"])
def test_resumed_equals_uninterrupted_bit_for_bit(
    tiny_model: Any, tmp_path: Path, hydra: bool
) -> None:
    whole = trainer(tiny_model, hydra=hydra)
    train(whole, on_step=silent)

    def stop_at_five(step: int, losses: list[float]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "run.checkpoint.pt"
    first = trainer(tiny_model, hydra=hydra)
    with pytest.raises(KeyboardInterrupt):
        train(first, on_step=stop_at_five, checkpoint=checkpoint)
    second = trainer(tiny_model, hydra=hydra)
    second.load(checkpoint)
    assert second.step == 5
    train(second, on_step=silent)

    assert torch.equal(weights(second), weights(whole))
    assert not torch.equal(weights(first), weights(whole))


def test_regular_checkpoints_are_whole_files(tiny_model: Any, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.checkpoint.pt"
    train(trainer(tiny_model), on_step=silent, checkpoint=checkpoint, checkpoint_every=5)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]
    later = trainer(tiny_model)
    later.load(checkpoint)
    assert later.step == 10


def test_a_checkpoint_of_another_plan_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    first = trainer(tiny_model)
    first.save(tmp_path / "c.pt")
    with pytest.raises(InvalidArgument, match="learning_rate"):
        trainer(tiny_model, replace(PLAN, learning_rate=1e-3)).load(tmp_path / "c.pt")


@pytest.mark.parametrize("hydra", [False, True], ids=["medusa", "hydra"])
def test_training_leaves_the_base_alone_and_lowers_every_loss(tiny_model: Any, hydra: bool) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    seen: list[list[float]] = []
    plan = replace(PLAN, steps=60)
    train(trainer(tiny_model, plan, hydra), on_step=lambda _, losses: seen.append(losses))
    assert all(torch.equal(before[n], t) for n, t in tiny_model.state_dict().items())
    first, last = torch.tensor(seen[:5]).mean(0), torch.tensor(seen[-5:]).mean(0)
    assert (last < first - 0.1).all(), (first, last)


@pytest.mark.parametrize("soft_labels", [False, True], ids=["tokens", "soft"])
@pytest.mark.parametrize("hydra", [False, True], ids=["medusa", "hydra"])
def test_gradient_is_that_of_the_weighted_sum(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch, hydra: bool, soft_labels: bool
) -> None:
    monkeypatch.setattr(loop, "ROWS_AT_ONCE", 7)
    torch.manual_seed(0)
    plain = HydraHeads(32, 3, 24) if hydra else MedusaHeads(32, 3)
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.normal_(std=0.2)
    sliced = HeadTrainer(
        tiny_model, copy.deepcopy(plain), stream(), replace(PLAN, soft_labels=soft_labels)
    )
    starts = torch.tensor([90, 200])
    ids, labels = sliced.stream.windows(starts.tolist(), sliced.window)
    hidden = last_hidden(tiny_model, ids[:, :-1])
    for head in range(3):
        sliced._head_backward(head, ids, hidden, labels)

    lm_head = tiny_model.get_output_embeddings()
    table = tiny_model.get_input_embeddings().weight
    loss = torch.zeros(())
    for head in range(3):
        losses = []
        for row in range(2):
            for t in range(16):
                # Row t is of the token before t_0; head k is to guess the token at t + 2 + k,
                # which the base itself chooses from row t + 1 + k.
                target = labels[row, t + 2 + head]
                if target == IGNORED:
                    continue
                between = table[ids[row, t + 1 : t + 2 + head]][None]
                logits = plain.logits(head, hidden[row, t][None], lm_head, between)
                wanted = target[None]
                if soft_labels:
                    wanted = lm_head(hidden[row, t + 1 + head])[None].softmax(-1)
                losses.append(F.cross_entropy(logits, wanted))
        loss = loss + HEAD_DECAY**head * torch.stack(losses).mean()
    torch.autograd.backward(loss)
    for mine, theirs in zip(sliced.heads.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_the_rate_warms_up_holds_and_ends_at_zero() -> None:
    plan = Plan(steps=100, learning_rate=1.0, warmup_steps=10)
    assert plan.rate(0) == pytest.approx(0.1)
    assert plan.rate(20) == 1.0
    assert plan.rate(99) < 0.02


def test_too_little_text_is_an_error(tiny_model: Any) -> None:
    with pytest.raises(InvalidArgument, match="too few"):
        HeadTrainer(tiny_model, MedusaHeads(32, 3), TokenStream.of(range(15)), PLAN)
