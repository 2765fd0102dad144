"""The decoder as one process holds it."""

from __future__ import annotations

import math

import pytest
import torch

from pytest_nemoperf.native.data import SyntheticTokens
from pytest_nemoperf.weights import model_weights
from tests.native.families import PARTS
from tests.native.tiny import CPU, build, tiny_plan


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
    first, again, other = (build(tiny_plan(seed=seed)).state_dict() for seed in (1, 1, 2))

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
