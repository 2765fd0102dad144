"""Weights cast once a step against weights cast in each micro-batch."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_nemoperf.models.components import MoE
from pytest_nemoperf.native.fast_paths import FAST_PATHS_VARIABLE
from pytest_nemoperf.native.model.weight_casts import WeightCasts
from tests.native.tiny import build, tiny_config, tiny_plan, trainer_of

MODELS: dict[str, dict[str, Any]] = {
    "dense": {"qkv_bias": True},
    "tied": {"tied_embeddings": True},
    "mixture": {"moe": MoE(num_experts=4, topk=2, ffn_hidden_size=48)},
}


def losses(model: str, *, steps: int = 3) -> list[tuple[float | None, float | None]]:
    """Return loss and gradient norm of each step, of two micro-batches in bf16."""
    plan = tiny_plan(
        model=tiny_config(**MODELS[model]),
        layouts={"cpu": {"gpus": 1}},
        global_batch_size=4,
        micro_batch_size=2,
        precision="bf16",
    )
    trainer = trainer_of(plan, build(plan))
    taken = [trainer.step(number) for number in range(steps)]
    return [(step.loss, step.grad_norm) for step in taken]


@pytest.mark.parametrize("model", MODELS)
def test_losses_and_gradient_norms_are_the_same_bit_for_bit(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    default = losses(model)
    monkeypatch.setenv(FAST_PATHS_VARIABLE, "cast_weights_once")

    assert losses(model) == default


def test_copies_that_are_not_renewed_show_in_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    default = losses("dense")
    monkeypatch.setenv(FAST_PATHS_VARIABLE, "cast_weights_once")
    monkeypatch.setattr(WeightCasts, "renew", lambda _self: None)

    stale = losses("dense")

    assert stale[0] == default[0]
    assert stale[1:] != default[1:]
