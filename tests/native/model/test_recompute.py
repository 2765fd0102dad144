"""Recomputation keeps less and computes the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.native.model.mlp import MLP
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.train.data import SyntheticTokens
from tests.native.engine import Engine, accumulating_plan
from tests.native.tiny import CPU, build, tiny_plan

ONE_RANK: dict[str, Any] = {"layouts": {"cpu": Layout(gpus=1)}}
ZERO_BUBBLE: Any = {"pp_schedule": "zero_bubble"}


def whole_model(recompute: str) -> Decoder:
    return build(tiny_plan(**ONE_RANK, recompute=recompute))


def loss_of(model: Decoder) -> Tensor:
    data = SyntheticTokens(tiny_plan(**ONE_RANK), dp_rank=0, device=CPU)
    (inputs, *_) = data.micro_batches(0)
    loss: Tensor = model(*inputs)
    return loss


def gradients(model: Decoder) -> list[Tensor]:
    torch.autograd.backward([loss_of(model)])
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def num_bytes_kept(model: Decoder) -> int:
    """Return the bytes a forward pass keeps for its backward pass, each storage counted once."""
    kept = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = loss_of(model)
    assert loss.requires_grad  # and so alive are the tensors it keeps
    return sum(kept.values())


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_gradients_are_the_same_to_the_last_bit(recompute: str) -> None:
    pairs = list(zip(gradients(whole_model(recompute)), gradients(whole_model("none")), strict=True))

    assert pairs
    assert all(torch.equal(recomputed, kept) for recomputed, kept in pairs)


@pytest.mark.parametrize(("recompute", "times"), [("none", 1), ("selective", 2), ("full", 2)])
def test_the_attention_core_of_each_layer_runs_again_in_backward(
    recompute: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = nn.functional.scaled_dot_product_attention

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", counted)

    gradients(whole_model(recompute))

    assert len(calls) == times * 2  # layers


@pytest.mark.parametrize(("recompute", "times"), [("none", 1), ("selective", 1), ("full", 2)])
def test_only_full_recomputation_runs_the_mlp_again(recompute: str, times: int) -> None:
    model = whole_model(recompute)
    calls = []
    for module in model.modules():
        if isinstance(module, MLP):
            module.register_forward_pre_hook(lambda *args: calls.append(args))

    gradients(model)

    assert len(calls) == times * 2  # layers


def test_the_more_is_recomputed_the_less_is_kept() -> None:
    none = num_bytes_kept(whole_model("none"))
    selective = num_bytes_kept(whole_model("selective"))
    full = num_bytes_kept(whole_model("full"))

    assert full < selective < none


def test_recomputation_computes_what_one_process_computes(engine: Engine) -> None:
    tp2, zb2, cp2 = Layout(gpus=2, tp=2), Layout(gpus=2, pp=2, **ZERO_BUBBLE), Layout(gpus=2, cp=2)
    plans = {
        "tp2-selective": accumulating_plan(tp2, recompute="selective"),
        "tp2-full": accumulating_plan(tp2, recompute="full"),
        "zb2-selective": accumulating_plan(zb2, recompute="selective"),
        "zb2-full": accumulating_plan(zb2, recompute="full"),
        "cp2-selective": accumulating_plan(cp2, recompute="selective"),
        "cp2-full": accumulating_plan(cp2, recompute="full"),
        "fsdp2-full": accumulating_plan(Layout(gpus=2, dp_shard=2), recompute="full"),
        "fsdp2-selective": accumulating_plan(Layout(gpus=2, dp_shard=2), recompute="selective"),
        "pp2fsdp2-full": accumulating_plan(Layout(gpus=4, pp=2, dp_shard=2), recompute="full"),
        "pp2fsdp2-selective": accumulating_plan(Layout(gpus=4, pp=2, dp_shard=2), recompute="selective"),
    }

    assert engine.mismatches(plans) == {}
