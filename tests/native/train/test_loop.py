"""One process's step against the same in a few lines of plain torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_nemoperf.native.train.data import SyntheticTokens
from tests.native.tiny import CPU, build, tiny_plan, trainer_of

ONE_RANK: dict[str, Any] = {"layouts": {"cpu": {"gpus": 1}}, "global_batch_size": 4}


def test_three_steps_equal_a_plain_loop() -> None:
    plan = tiny_plan(**ONE_RANK, micro_batch_size=1)
    model = build(plan)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1)
    expected = []
    for step in range(3):
        batches = SyntheticTokens(plan, dp_rank=0, device=CPU).micro_batches(step)
        loss = model(*(torch.cat(parts) for parts in zip(*batches, strict=True))) / plan.tokens_per_step
        optimizer.zero_grad()
        loss.backward()
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        expected.append((loss.item(), grad_norm.item()))

    trainer = trainer_of(plan, build(plan))
    for step, values in enumerate(expected):
        timed = trainer.step(step)
        assert (timed.loss, timed.grad_norm) == pytest.approx(values, rel=1e-5)


def test_the_gradient_is_clipped_before_the_optimizer_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = tiny_plan(**ONE_RANK)
    model = build(plan)
    seen = []

    def look(optimizer: torch.optim.AdamW) -> None:
        grads = [weight.grad for weight in model.parameters() if weight.grad is not None]
        seen.append(torch.nn.utils.get_total_norm(grads).item())

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    timed = trainer_of(plan, model).step(0)

    assert timed.grad_norm > 1.0
    assert seen == [pytest.approx(1.0, rel=1e-4)]


def test_a_single_rank_has_every_phase_but_gradient_communication() -> None:
    plan = tiny_plan(**ONE_RANK)

    timed = trainer_of(plan, build(plan)).step(0)

    assert timed.phases["grad_comm"] == 0
    assert all(timed.phases[phase] > 0 for phase in ("data", "forward", "backward", "optimizer", "other"))
    assert sum(timed.phases.values()) == pytest.approx(timed.step_time_sec)


def test_an_injected_delay_is_inside_the_step_and_counts_as_other() -> None:
    plan = tiny_plan(**ONE_RANK, inject_pct=100.0)

    timed = trainer_of(plan, build(plan)).step(0)

    # The sleep is at least as long as all that was done before it.
    assert timed.phases["other"] >= timed.step_time_sec / 2


def test_gradients_are_gone_after_the_step() -> None:
    plan = tiny_plan(**ONE_RANK)
    model = build(plan)

    trainer_of(plan, model).step(0)

    assert all(weight.grad is None for weight in model.parameters())
