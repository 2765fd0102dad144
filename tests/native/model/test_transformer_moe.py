"""Router and experts of a mixture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import Activation, MoE
from pytest_nemoperf.native.model.mlp import activate
from pytest_nemoperf.native.model.moe import (
    Experts,
    Product,
    Router,
    _count_rows,
    _grouped_problem,
    grouped_product,
    looped_product,
)
from tests.native.families import MOE
from tests.native.tiny import build, tiny_config, tiny_plan

NUM_TOKENS = 16
BIASED = {"activation": Activation.CLAMPED_SWIGLU, "mlp_bias": True}


def filled(module: nn.Module) -> Any:
    with torch.no_grad():
        for number, weight in enumerate(module.parameters()):
            weight.normal_(0, 0.2, generator=torch.Generator().manual_seed(number))
    return module


def tokens(width: int) -> Tensor:
    return torch.randn(NUM_TOKENS, width, generator=torch.Generator().manual_seed(9), requires_grad=True)


def one_by_one(experts: Experts, x: Tensor, probs: Tensor, ids: Tensor) -> Tensor:
    """Return the experts' weighted sum for each token, token by token."""
    rows = []
    for token, row in enumerate(x):
        total = torch.zeros_like(row)
        for prob, expert in zip(probs[token], ids[token], strict=True):
            first = experts.gate_up or experts.up
            assert first is not None
            hidden = first.weight[expert] @ (row * prob if experts.scales_input else row)
            hidden = hidden if first.bias is None else hidden + first.bias[expert]
            out = experts.down.weight[expert] @ activate(hidden[None], experts.activation)[0]
            out = out if experts.down.bias is None else out + experts.down.bias[expert]
            total = total + (out if experts.scales_input else out * prob)
        rows.append(total)
    return torch.stack(rows)


def mixture(config: ModelConfig) -> tuple[Experts, Tensor, Tensor, Tensor]:
    assert config.moe is not None
    experts = filled(Experts(config, config.moe))
    x = tokens(config.hidden_size)
    with torch.no_grad():
        probs, ids = filled(Router(config.hidden_size, config.moe, is_balanced=False))(x)
    return experts, x, probs, ids


@pytest.mark.parametrize("product", [grouped_product, looped_product])
@pytest.mark.parametrize(
    "config",
    [
        tiny_config(moe=MOE),
        tiny_config(moe=MOE, **BIASED),
        tiny_config(moe=replace(MOE, topk=1, scales_input=True)),
        tiny_config(moe=MOE, activation=Activation.SQUARED_RELU),
    ],
    ids=["gated", "biases", "scaled-inputs", "plain"],
)
def test_experts_and_their_gradients_equal_those_token_by_token(config: ModelConfig, product: Product) -> None:
    experts, x, probs, ids = mixture(config)
    experts.product = product
    inputs = [x, *experts.parameters()]
    grad = torch.linspace(-1, 1, x.numel()).reshape(x.shape)

    out, expected = experts(x, probs, ids), one_by_one(experts, x, probs, ids)

    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad))


@pytest.mark.parametrize("product", [grouped_product, looped_product])
@pytest.mark.parametrize("counts", [[5, 0, 0, 11], [0, 0, 0, 0]], ids=["idle-experts", "no-rows"])
def test_a_slice_of_the_experts_takes_whatever_rows_come(counts: list[int], product: Product) -> None:
    experts, *_ = mixture(tiny_config(moe=replace(MOE, num_experts=4), **BIASED))
    experts.product = product
    x = tokens(32)[: sum(counts)]

    out = experts.compute(x, torch.tensor(counts))
    out.sum().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped

    assert out.shape == x.shape
    gate_up = experts.gate_up
    assert gate_up is not None
    assert gate_up.weight.grad is not None
    assert gate_up.weight.grad.flatten(1).any(1).tolist() == [count > 0 for count in counts]


def test_experts_the_grouped_product_cant_take_run_one_by_one_and_say_so() -> None:
    experts, x, probs, ids = mixture(tiny_config(moe=replace(MOE, ffn_hidden_size=10)))

    with pytest.warns(UserWarning, match="rows of a multiple of 16 bytes, not 10 x .*one by one, which is slower"):
        out = experts(x, probs, ids)

    torch.testing.assert_close(out, one_by_one(experts, x, probs, ids))


def test_experts_of_a_usual_size_are_one_product() -> None:
    assert not _grouped_problem(torch.empty(4, 32), torch.empty(8, 16, 32))


def test_the_balanced_router_fills_all_experts_alike() -> None:
    router = filled(Router(32, MOE, is_balanced=True))
    x = tokens(32)

    probs, ids = router(x)

    assert _count_rows(ids.flatten(), num_experts=8).tolist() == [4] * 8
    # Probabilities are the router's own for these experts, and it learns.
    scores = (x @ router.weight.T).softmax(-1).gather(1, ids)
    torch.testing.assert_close(probs, scores / scores.sum(-1, keepdim=True))
    probs[:, 0].sum().backward()
    assert router.weight.grad.any()


def test_the_balanced_router_is_what_a_plan_asks_for() -> None:
    counts = {}
    for is_balanced in (True, False):
        model = build(tiny_plan(model=tiny_config(moe=MOE), is_router_balanced=is_balanced))
        router = next(module for module in model.modules() if isinstance(module, Router))
        _, ids = router(tokens(32))
        counts[is_balanced] = _count_rows(ids.flatten(), num_experts=8).tolist()

    assert counts[True] == [4] * 8
    assert counts[False] != [4] * 8


def test_a_correction_moves_the_choice_and_not_the_probabilities() -> None:
    moe = MoE(
        num_experts=4, topk=1, ffn_hidden_size=8, router="sigmoid", is_normalized=False, has_score_correction=True
    )
    router = filled(Router(32, moe, is_balanced=False))
    x = tokens(32)
    router.correction_E = torch.tensor([0.0, 0.0, 5.0, 0.0])

    probs, ids = router(x)

    assert set(ids.flatten().tolist()) == {2}
    torch.testing.assert_close(probs[:, 0], (x @ router.weight[2]).sigmoid())


def test_groups_close_experts_that_scores_alone_would_choose() -> None:
    # Experts 0 and 1 are one group, 2 and 3 the other: the group with the best expert has the lower sum of two.
    moe = MoE(num_experts=4, topk=2, ffn_hidden_size=8, num_groups=2, topk_groups=1, group_score="top2")
    x = torch.tensor([[3.0, -9.0, 2.9, 2.8]])

    chosen = {}
    for score in ("top2", "max"):
        router = Router(4, replace(moe, group_score=score), is_balanced=False)
        router.weight.data.copy_(torch.eye(4))
        _, ids = router(x)
        chosen[score] = set(ids[0].tolist())

    assert chosen == {"top2": {2, 3}, "max": {0, 1}}
