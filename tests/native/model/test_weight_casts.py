"""Weights cast once a step against weights cast in each micro-batch, in one process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from pytest_nemoperf.models.components import MoE
from pytest_nemoperf.native.fast_paths import CAST_WEIGHTS_ONCE, FAST_PATHS_VARIABLE
from pytest_nemoperf.native.model.layers import Linear
from pytest_nemoperf.native.model.moe import Experts
from pytest_nemoperf.native.model.weight_casts import WeightCasts
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.train import optimizer_step
from pytest_nemoperf.native.train.data import SyntheticTokens
from pytest_nemoperf.recipes.recipe import Recompute
from tests.native.families import PARTS
from tests.native.tiny import CPU, build, tiny_config, tiny_plan, trainer_of

MIXTURE = MoE(num_experts=4, topk=2, ffn_hidden_size=48)
MODELS = {
    "dense": tiny_config(),
    "biases": tiny_config(qkv_bias=True, activation="gelu", mlp_bias=True),
    "tied": tiny_config(tied_embeddings=True),
    "mixture": tiny_config(moe=MIXTURE),
    "tied mixture": tiny_config(moe=MIXTURE, tied_embeddings=True),
    "latent attention, experts, several tokens ahead": PARTS["mla-moe-mtp"],
}


def plan_of(model: str, **changes: Any) -> Any:
    """Return a plan of two micro-batches a step in bf16."""
    values = {"global_batch_size": 4, "micro_batch_size": 2, "precision": "bf16", "layouts": {"cpu": {"gpus": 1}}}
    return tiny_plan(model=MODELS[model], **{**values, **changes})


def trained(plan: Any, *, steps: int = 3) -> tuple[list[tuple[float | None, float | None]], dict[str, Tensor]]:
    """Return loss and gradient norm of each step, and the weights after the last."""
    model = build(plan)
    trainer = trainer_of(plan, model)
    taken = [trainer.step(number) for number in range(steps)]
    return [(step.loss, step.grad_norm) for step in taken], dict(model.named_parameters())


@pytest.mark.filterwarnings("ignore:grouped_mm needs rows")
@pytest.mark.parametrize("recompute", [Recompute.NONE, Recompute.FULL])
@pytest.mark.parametrize("model", MODELS)
def test_steps_and_weights_are_the_same_bit_for_bit(
    model: str, recompute: Recompute, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = replace(plan_of(model), recompute=recompute)
    steps, weights = trained(plan)
    monkeypatch.setenv(FAST_PATHS_VARIABLE, CAST_WEIGHTS_ONCE)

    cast_steps, cast_weights = trained(plan)

    assert cast_steps == steps
    for name, weight in weights.items():
        assert torch.equal(cast_weights[name], weight), name


def test_copies_that_are_not_renewed_show_in_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of("dense")
    steps, _ = trained(plan)
    monkeypatch.setenv(FAST_PATHS_VARIABLE, CAST_WEIGHTS_ONCE)
    monkeypatch.setattr(WeightCasts, "renew", lambda _self: None)

    stale, _ = trained(plan)

    assert stale[0] == steps[0]
    assert stale[1:] != steps[1:]


@pytest.mark.parametrize("model", ["tied mixture", "latent attention, experts, several tokens ahead"])
def test_every_matrix_product_reads_a_copy(model: str) -> None:
    plan = plan_of(model)
    decoder = build(plan)
    casts = WeightCasts(decoder)
    read: set[nn.Parameter] = set()
    original = WeightCasts.__call__

    def call(self: WeightCasts, weight: nn.Parameter, dtype: torch.dtype) -> Tensor:
        read.add(weight)
        return original(self, weight, dtype)

    ((tokens_BS, labels_BSN), *_) = SyntheticTokens(plan, dp_rank=0, device=CPU).micro_batches(0)
    with mock.patch.object(WeightCasts, "__call__", call):
        decoder(tokens_BS, labels_BSN)

    assert read == casts._copies.keys()
    assert {module.weight for module in decoder.modules() if isinstance(module, Linear)} < read
    for module in decoder.modules():
        if isinstance(module, Experts):
            assert module.down.weight in read
    head = decoder.head
    assert head is not None
    if head.weight is None:
        assert decoder.embedding is not None
        assert decoder.embedding.weight in read
    else:
        assert head.weight in read


@pytest.mark.parametrize(
    ("changes", "mesh"),
    [
        ({}, RankMesh(pp=mock.sentinel.group)),
        ({}, RankMesh(shards=mock.sentinel.mesh)),
        ({"is_compiled": True}, RankMesh()),
        ({"precision": "fp32"}, RankMesh()),
    ],
    ids=["pipeline, which splits backward passes by itself", "fsdp", "compiled", "fp32"],
)
def test_plans_that_have_no_use_for_copies_keep_their_products(
    changes: dict[str, Any], mesh: RankMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FAST_PATHS_VARIABLE, CAST_WEIGHTS_ONCE)
    plan = plan_of("dense", **changes)
    model = build(replace(plan, is_compiled=False))
    products = [module.product for module in model.modules() if isinstance(module, Linear)]

    assert optimizer_step._weight_casts(plan, chunks=[model], mesh=mesh) is None
    assert [module.product for module in model.modules() if isinstance(module, Linear)] == products
