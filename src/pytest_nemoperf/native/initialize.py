"""Weights from seeds: the same model in every layout, whatever part of it a rank holds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from pytest_nemoperf.native.mesh import RankMesh
from pytest_nemoperf.native.model import Decoder
from pytest_nemoperf.native.moe import Router
from pytest_nemoperf.native.seeds import seeded_generator
from pytest_nemoperf.native.shares import local_experts, shares_of, tensor_shares_of
from pytest_nemoperf.weights import Weight

_STD = 0.02
_RESIDUAL = ("attention.out.weight", ".down.weight")


@torch.no_grad()
def initialize(
    model: Decoder,
    *,
    weights: Mapping[str, Weight],
    mesh: RankMesh,
    seed: int,
    device: torch.device,
) -> None:
    """Allocate the model on the device and fill it.

    Every rank draws each whole weight in turn and keeps its part, so that memory never holds more than one
    whole weight and no communication is needed. Of routed experts it draws its own alone.

    Args:
        model: On the meta device, already split and sharded.
        weights: Every weight of the whole model, by name.
        mesh: Which part of each is this rank's.
        seed: Of the weights.
        device: Where they go.
    """
    model.to_empty(device=device)
    for name, parameter in model.named_parameters():
        _fill(parameter, _draw(weights[name], num_layers=model.config.num_layers, mesh=mesh, seed=seed, device=device))
    fill_constants(model, device=device)


def fill_constants(model: Decoder, *, device: torch.device) -> None:
    """Make what a model holds beside its weights: tables of positions, and routers' corrections, which are zero."""
    model.tabulate_positions(device)
    for module in model.modules():
        if isinstance(module, Router) and module.correction_E is not None:
            module.correction_E = torch.zeros(module.correction_E.shape, device=device)


def _draw(weight: Weight, *, num_layers: int, mesh: RankMesh, seed: int, device: torch.device) -> Tensor:
    """Return this rank's part of a weight."""
    if not weight.is_expert:
        part = _draw_whole(weight.name, shape=weight.shape, num_layers=num_layers, seed=seed, device=device)
        for share in shares_of(weight, mesh=mesh):
            part = share.take(part)
        return part
    first, last = local_experts(weight.shape[0], mesh=mesh)
    drawn = []
    for expert in range(first, last):
        name = f"{weight.name} of expert {expert}"
        part = _draw_whole(name, shape=(1, *weight.shape[1:]), num_layers=num_layers, seed=seed, device=device)
        for share in tensor_shares_of(weight, mesh=mesh):
            part = share.take(part)
        drawn.append(part)
    return torch.cat(drawn)


def _draw_whole(name: str, *, shape: tuple[int, ...], num_layers: int, seed: int, device: torch.device) -> Tensor:
    whole = torch.empty(shape, device=device)
    kind = name.partition(" ")[0]
    if kind.endswith("norm.weight"):
        return whole.fill_(1)
    if kind.endswith((".bias", "sinks")):
        return whole.zero_()
    generator = seeded_generator(device, seed=seed, purpose=f"weight {name}")
    return whole.normal_(0, _std(kind, shape=shape, num_layers=num_layers), generator=generator)


def _std(name: str, *, shape: tuple[int, ...], num_layers: int) -> float:
    """Return the spread of a weight; products that add to the residual stream start smaller, as in GPT-2.

    So does a value head, the head of one row: first predictions near zero leave the rewards to say what is good.
    """
    if name == "head.weight" and shape[0] == 1:
        return 1 / shape[1]
    is_residual = name.endswith(_RESIDUAL)
    return _STD / math.sqrt(2 * num_layers) if is_residual else _STD


def _fill(parameter: Tensor, part: Tensor) -> None:
    if isinstance(parameter, DTensor):
        # src_data_rank=None: every rank has the values, so it slices its own and nothing is sent.
        part = distribute_tensor(part, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
        parameter = parameter.to_local()
    parameter.copy_(part)
