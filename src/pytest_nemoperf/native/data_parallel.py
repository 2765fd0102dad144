"""Data parallelism: FSDP2 and HSDP shard weights, gradients and optimizer state; DDP replicates them."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from pytest_nemoperf.native.model import Decoder


def apply_fsdp(model: Decoder, *, mesh: DeviceMesh) -> None:
    """Shard every block, then the rest, over the mesh; fp32 is stored and reduced, the model's type computes.

    Args:
        model: On the meta device or not; its parameters become DTensors.
        mesh: One axis for FSDP, two (replicas, shards) for HSDP.
    """
    # Inputs are cast by the model itself, so that the loss and the angles keep their type.
    policy = MixedPrecisionPolicy(param_dtype=model.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in model.blocks.values():
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def apply_ddp(model: Decoder, *, mesh: DeviceMesh) -> DistributedDataParallel:
    """Return the model wrapped so that gradients are averaged over the mesh's one axis while backward runs.

    Weights come from seeds and are equal already, so nothing is broadcast.
    """
    return DistributedDataParallel(
        model,
        process_group=mesh.get_group(),
        gradient_as_bucket_view=True,
        init_sync=False,
    )


def gradient_sync(model: nn.Module, *, is_on: bool) -> AbstractContextManager[None]:
    """Return the context in which a micro-batch goes forward and backward.

    Args:
        model: As parallelize returned it.
        is_on: Average gradients over the data-parallel ranks; off for all but the last micro-batch.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(is_on)
    elif isinstance(model, DistributedDataParallel) and not is_on:
        return model.no_sync()
    return nullcontext()
