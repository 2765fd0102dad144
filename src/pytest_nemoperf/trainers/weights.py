"""Weights of other frameworks' modules: the values that the native engine starts from."""

# Q, K, V rows of queries, keys and values; D columns

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.weights import model_weights
from pytest_nemoperf.native.parallel.initialize import draw_whole
from pytest_nemoperf.recipes.recipe import Plan


def whole_weight(plan: Plan, name: str, *, device: torch.device) -> Tensor:
    """Return a whole weight of the plan's model by its name in models/weights.py; not for routed experts.

    Raises:
        KeyError: If the model has no such weight.
    """
    shapes = {weight.name: weight.shape for weight in model_weights(plan.model)}
    return draw_whole(name, shape=shapes[name], num_layers=plan.model.num_layers, seed=plan.seed, device=device)


def drawing_device(plan: Plan) -> torch.device:
    """Return the device of random numbers, the native engine's: they differ between kinds of devices."""
    if plan.device == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@torch.no_grad()
def fill(parameter: Tensor, whole: Tensor) -> None:
    """Copy a whole weight into a parameter, which may be a DTensor: each rank takes its own shard."""
    if isinstance(parameter, DTensor):
        # src_data_rank=None: every rank has the values, so it slices its own and nothing is sent.
        whole = distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None).to_local()
        parameter = parameter.to_local()
    parameter.copy_(whole)


def by_query_group(qkv_QKVD: Tensor, *, model: ModelConfig) -> Tensor:
    """Return the rows of queries, keys and values group by group: a group's queries, its keys, its values.

    Args:
        qkv_QKVD: All queries, then all keys, then all values; those of some key-value heads, or of all. A bias has one
            dimension.
        model: Architecture.
    """
    per_group = model.num_heads // model.num_kv_heads
    width = model.head_dim
    groups = qkv_QKVD.shape[0] // (width * (per_group + 2))
    sizes = [groups * per_group * width, groups * width, groups * width]
    parts = []
    for part in torch.split(qkv_QKVD, sizes):
        parts.append(part.reshape(groups, part.shape[0] // groups, -1))
    return torch.cat(parts, dim=1).reshape(qkv_QKVD.shape)
