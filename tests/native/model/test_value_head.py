"""Value models: a policy's architecture with one value per token, and their parity with one process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.flops.conventions import find_convention
from pytest_nemoperf.flops.count import flops_terms
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.architecture import ModelConfig, value_model
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.components import MoE
from pytest_nemoperf.models.weights import model_weights, num_parameters
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.model.value_head import ValueHead
from pytest_nemoperf.recipes.recipe import Plan
from tests.native.engine import MODEL, REL_TOL, Engine, accumulating_plan, by_layout, largest_difference
from tests.native.tiny import build, tiny_config, tiny_plan

LEARNING = "with_values_to_learn"
MIXTURE = replace(MODEL, name="mixed", moe=MoE(num_experts=4, topk=2, ffn_hidden_size=32))
LAYOUTS = [
    Layout(gpus=2, dp_replicate=2),
    Layout(gpus=2, dp_shard=2),
    Layout(gpus=2, tp=2),
    Layout(gpus=2, tp=2, sequence_parallel=False),
    Layout(gpus=2, cp=2),
    Layout(gpus=2, pp=2),
    Layout(gpus=2, pp=2, pp_schedule="zero_bubble"),
    Layout(gpus=4, dp_shard=2, tp=2),
    Layout(gpus=4, pp=2, tp=2),
    Layout(gpus=4, cp=2, tp=2),
]


def value_plan(layout: Layout, *, policy: ModelConfig = MODEL) -> Plan:
    return replace(accumulating_plan(layout, model=policy), model=value_model(policy))


def tiny_values(**changes: Any) -> Decoder:
    model = tiny_config(has_value_head=True, **changes.pop("model", {}))
    return build(tiny_plan(model=model, layouts={"cpu": Layout(gpus=1)}, **changes))


def hidden_and_head(model: Decoder, tokens_BS: torch.Tensor) -> tuple[torch.Tensor, ValueHead]:
    assert model.norm is not None
    assert isinstance(model.head, ValueHead)
    return model.norm(model.hidden(tokens_BS)), model.head


@pytest.mark.parametrize("name", ["llama3-8b", "gemma2-2b", "deepseek-v3", "gpt3-175b", "qwen3-30b-a3b"])
def test_a_value_model_is_its_policy_with_a_head_of_one_row(name: str) -> None:
    policy = find_model(f"{name}-twin")

    values = value_model(policy)

    own = {weight.name: weight.shape for weight in model_weights(values)}
    theirs = {weight.name: weight.shape for weight in model_weights(policy) if not weight.name.startswith("mtp.")}
    assert own.pop("head.weight") == (1, policy.hidden_size)
    assert own == {weight_name: shape for weight_name, shape in theirs.items() if weight_name != "head.weight"}


def test_the_head_of_a_value_model_costs_next_to_nothing() -> None:
    policy = find_model("llama3-8b")
    convention = find_convention("full-attention")

    own = dict(flops_terms(value_model(policy), seq_len=128, convention=convention))
    theirs = dict(flops_terms(policy, seq_len=128, convention=convention))

    assert own.pop("head") == 6 * policy.hidden_size
    theirs.pop("head")
    assert own == theirs
    assert num_parameters(policy) - num_parameters(value_model(policy)) == 4096 * (128_256 - 1)


@pytest.mark.parametrize("changes", [{"tied_embeddings": True}, {"mtp_num_layers": 1}])
def test_a_value_head_has_no_vocabulary_to_tie_or_to_predict_further_ahead(changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=r"model tiny: has_value_head leaves no vocabulary .*; use value_model"):
        tiny_config(has_value_head=True, **changes)


def test_a_decoder_with_a_value_head_returns_the_sum_of_its_values() -> None:
    model = tiny_values()
    tokens_BS = torch.arange(32).view(2, 16)

    hidden_TD, head = hidden_and_head(model, tokens_BS)
    value_T = head(hidden_TD, tokens_BS.flatten(), None)

    by_hand = [sum(h * w for h, w in zip(row, head.weight[0].tolist(), strict=True)) for row in hidden_TD.tolist()]
    assert value_T.tolist() == pytest.approx(by_hand, rel=1e-4, abs=1e-6)
    # The objective of pre-training is the negative sum of the head's outputs.
    assert abs(model(tokens_BS, tokens_BS[..., None]).item()) == pytest.approx(abs(sum(by_hand)), rel=1e-4)


def test_every_weight_of_a_value_model_gets_a_gradient() -> None:
    model = tiny_values()
    tokens_BS = torch.arange(32).view(2, 16)

    torch.autograd.backward([model(tokens_BS, tokens_BS[..., None])])

    assert [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_values_are_fp32_in_bf16_models() -> None:
    model = tiny_values(precision="bf16")
    tokens_BS = torch.arange(32).view(2, 16)

    hidden_TD, head = hidden_and_head(model, tokens_BS)

    assert hidden_TD.dtype is torch.bfloat16
    assert head(hidden_TD, tokens_BS.flatten(), None).dtype is torch.float32


def test_an_untrained_value_model_expects_little_and_has_its_policys_weights() -> None:
    values = tiny_values()
    policy = build(tiny_plan(layouts={"cpu": Layout(gpus=1)}))
    tokens_BS = torch.arange(32).view(2, 16)

    hidden_TD, head = hidden_and_head(values, tokens_BS)

    assert 0 < head(hidden_TD, tokens_BS.flatten(), None).abs().max() < 1
    theirs = dict(policy.named_parameters())
    same = [name for name, weight in values.named_parameters() if torch.equal(weight, theirs[name])]
    assert same == [name for name in theirs if name != "head.weight"]


def test_every_layout_trains_a_value_model_as_one_process_does(engine: Engine) -> None:
    plans = by_layout(map(value_plan, LAYOUTS))
    plans["mixture"] = value_plan(Layout(gpus=4, dp_shard=2, tp=2, ep=2), policy=MIXTURE)

    assert engine.mismatches(plans, sabotage=LEARNING) == {}


@pytest.mark.parametrize("sabotage", ["with_values_counted_by_each_rank", "without_sum_of_value_gradients"])
def test_a_gradient_counted_twice_or_by_half_is_noticed(engine: Engine, sabotage: str) -> None:
    plan = value_plan(Layout(gpus=2, tp=2))

    records = engine.run(plan, sabotage=sabotage)

    assert largest_difference(records, reference=engine.reference(plan, sabotage=LEARNING)) > REL_TOL
