"""The decoder as one process holds it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.models.weights import model_weights
from pytest_nemoperf.native.model.transformer import LossHead
from pytest_nemoperf.native.train.data import SyntheticTokens
from tests.native.families import PARTS
from tests.native.tiny import CPU, build, tiny_config, tiny_plan


@pytest.mark.parametrize("name", PARTS)
def test_parameters_have_the_names_and_shapes_that_plans_count(name: str) -> None:
    model = build(tiny_plan(model=PARTS[name]))

    ours = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    assert ours == {weight.name: weight.shape for weight in model_weights(PARTS[name])}


@pytest.mark.parametrize("name", PARTS)
def test_every_parameter_gets_a_gradient(name: str) -> None:
    plan = tiny_plan(model=PARTS[name])
    model = build(plan)
    ((tokens, labels), *_) = SyntheticTokens(plan, dp_rank=0, device=CPU).micro_batches(0)

    loss = model(tokens, labels)
    loss.backward()

    assert loss.dtype is torch.float32
    assert loss.shape == ()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]


def test_logits_of_half_precision_are_divided_by_the_temperature_in_single() -> None:
    config = tiny_config()
    head = LossHead(config)
    head.temperature = 0.7
    for weight in head.parameters():
        torch.nn.init.normal_(weight)
    x, labels = torch.randn(50, config.hidden_size, dtype=torch.bfloat16), torch.arange(50)
    original = head.cross_entropy
    seen: list[torch.Tensor] = []

    def observed(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(logits)  # the input of tensor parallelism's own function, too
        return original(logits, labels)

    head.cross_entropy = observed

    logprobs = head(x, labels, None)

    expected = head.logits(x, None).float() / 0.7
    assert torch.equal(seen[0], expected)
    torch.testing.assert_close(logprobs, expected.log_softmax(-1)[labels, labels], rtol=0, atol=1e-5)


def test_a_token_never_sees_the_next_ones() -> None:
    plan = tiny_plan()
    model = build(plan)
    x = torch.randn(plan.seq_len, plan.model.hidden_size)
    changed = x.clone()
    changed[10:] += 1.0

    positions = model.positions_of(plan.model.layers[0])
    outputs = [model.blocks["0"](values, positions) for values in (x, changed)]

    torch.testing.assert_close(outputs[0][:10], outputs[1][:10])
    assert not torch.allclose(outputs[0][10:], outputs[1][10:])


def test_sequences_of_a_micro_batch_do_not_see_each_other() -> None:
    plan = tiny_plan()
    model = build(plan)
    tokens = torch.arange(2 * plan.seq_len).reshape(2, plan.seq_len) % plan.model.vocab_size

    labels = tokens[..., None]
    together = model(tokens, labels)
    apart = model(tokens[:1], labels[:1]) + model(tokens[1:], labels[1:])

    torch.testing.assert_close(together, apart)


def test_an_untrained_model_knows_nothing() -> None:
    plan = tiny_plan()
    tokens = torch.arange(plan.seq_len)[None]

    loss = build(plan)(tokens, tokens[..., None])

    assert loss.item() / plan.seq_len == pytest.approx(math.log(plan.model.vocab_size), rel=0.05)


def test_weights_depend_on_the_seed_alone() -> None:
    first = build(tiny_plan(seed=1)).state_dict()
    again = build(tiny_plan(seed=1)).state_dict()
    other = build(tiny_plan(seed=2)).state_dict()

    name = "blocks.1.mlp.down.weight"
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first[name], other[name])
    assert not torch.equal(first[name], first["blocks.0.mlp.down.weight"])


def test_bf16_computes_in_bf16_and_keeps_fp32_weights() -> None:
    plan = tiny_plan(precision="bf16")
    model = build(plan)
    seen = []
    model.blocks["0"].register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    tokens = torch.arange(plan.seq_len)[None]

    loss = model(tokens, tokens[..., None])
    loss.backward()

    assert seen == [torch.bfloat16]
    assert loss.dtype is torch.float32
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert {weight.grad.dtype for weight in model.parameters() if weight.grad is not None} == {torch.float32}


def test_a_hybrid_is_refused() -> None:
    plan = tiny_plan(model=find_model("nemotron-h-8b-twin"))

    with pytest.raises(PlanError, match=r"nemotron-h-8b-twin mixes tokens by Mamba-2, .*Megatron-Bridge"):
        build(plan)


def test_all_depths_of_shared_multi_token_prediction_use_one_block() -> None:
    config = replace(PARTS["mla-moe-mtp"], is_mtp_shared=True)
    plan = tiny_plan(model=config)
    model = build(plan)
    tokens = torch.arange(plan.seq_len)[None]
    calls = []
    model.mtp["0"].register_forward_hook(lambda *call: calls.append(call[-1]))

    model(tokens, tokens[..., None].expand(-1, -1, 3))

    assert {name: tuple(weight.shape) for name, weight in model.named_parameters()} == {
        weight.name: weight.shape for weight in model_weights(config)
    }
    assert len(calls) == 2
    assert not torch.equal(calls[0], calls[1])


def test_logits_are_what_the_loss_is_made_of() -> None:
    plan = tiny_plan(model=tiny_config(final_softcap=2.0, logit_scale=3.0))
    model = build(plan)
    tokens = torch.arange(2 * plan.seq_len).reshape(2, -1) % plan.model.vocab_size
    labels = tokens.flip(1)

    logits = model.logits(tokens)

    assert logits.shape == (*tokens.shape, plan.model.vocab_size)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    torch.testing.assert_close(model(tokens, labels[..., None]), loss)
