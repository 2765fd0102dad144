"""Initial weights from seeds: the same model in every layout."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from pytest_nemoperf.models.weights import Weight
from pytest_nemoperf.native.model.moe import Router
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.parallel.sharding import axis_shards, local_experts, tensor_shards
from pytest_nemoperf.native.seeds import seeded_generator

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

    Every rank draws each whole weight in turn and keeps its shard, so that memory never holds more than one whole
    weight and no communication is needed. Of routed experts it draws its own alone.

    Args:
        model: On the meta device, already split and sharded.
        weights: Every weight of the whole model, by name.
        mesh: Process groups of this rank.
        seed: Seed of the weights.
        device: Device of the weights.
    """
    model.to_empty(device=device)
    num_layers = model.config.num_layers
    for name, parameter in model.named_parameters():
        shard = draw_shard(weights[name], num_layers=num_layers, mesh=mesh, seed=seed, device=device)
        _fill(parameter, shard)
    fill_constants(model, device=device)


def fill_constants(model: Decoder, *, device: torch.device) -> None:
    """Fill position tables and the routers' score corrections, which are zero."""
    model.tabulate_positions(device)
    for module in model.modules():
        if isinstance(module, Router) and module.correction_E is not None:
            module.correction_E = torch.zeros(module.correction_E.shape, device=device)


def draw_shard(weight: Weight, *, num_layers: int, mesh: RankMesh, seed: int, device: torch.device) -> Tensor:
    """Return this rank's shard of a weight, before FSDP shards it further."""
    if not weight.is_expert:
        shard = draw_whole(weight.name, shape=weight.shape, num_layers=num_layers, seed=seed, device=device)
        for axis in axis_shards(weight, mesh=mesh):
            shard = axis.take(shard)
        return shard
    first, end = local_experts(weight.shape[0], mesh=mesh)
    experts = []
    for expert in range(first, end):
        experts.append(draw_expert(weight, expert=expert, num_layers=num_layers, mesh=mesh, seed=seed, device=device))
    return torch.stack(experts)


def draw_expert(
    weight: Weight, *, expert: int, num_layers: int, mesh: RankMesh, seed: int, device: torch.device
) -> Tensor:
    """Return this rank's shard of one expert's part of a weight; experts are counted over all ranks."""
    name = f"{weight.name} of expert {expert}"
    shard = draw_whole(name, shape=(1, *weight.shape[1:]), num_layers=num_layers, seed=seed, device=device)
    for axis in tensor_shards(weight, mesh=mesh):
        shard = axis.take(shard)
    return shard[0]


def draw_whole(name: str, *, shape: tuple[int, ...], num_layers: int, seed: int, device: torch.device) -> Tensor:
    """Return a whole weight of that name, as every layout and every framework starts from it."""
    whole = torch.empty(shape, device=device)
    kind = name.partition(" ")[0]
    if kind.endswith("norm.weight"):
        return whole.fill_(1)
    if kind.endswith((".bias", "sinks")):
        return whole.zero_()
    generator = seeded_generator(device, seed=seed, purpose=f"weight {name}")
    return whole.normal_(0, _std(kind, shape=shape, num_layers=num_layers), generator=generator)


def _std(name: str, *, shape: tuple[int, ...], num_layers: int) -> float:
    """Return the standard deviation of a weight; as in GPT-2, products added to the residual stream start smaller.

    So does a value head, the head of one row: predictions start near zero.
    """
    if name == "head.weight" and shape[0] == 1:
        return 1 / shape[1]
    if name.endswith(_RESIDUAL):
        return _STD / math.sqrt(2 * num_layers)
    return _STD


def _fill(parameter: Tensor, shard: Tensor) -> None:
    if isinstance(parameter, DTensor):
        # src_data_rank=None: every rank has the values, so it slices its own and nothing is sent.
        shard = distribute_tensor(shard, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
        parameter = parameter.to_local()
    parameter.copy_(shard)
