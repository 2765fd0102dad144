"""Data parallelism: FSDP2 and HSDP shard weights, gradients and optimizer state; DDP replicates them."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import Shard
from torch.nn.parallel import DistributedDataParallel

from pytest_nemoperf.models.weights import sharded_dim
from pytest_nemoperf.native.model.transformer import Decoder


def apply_fsdp(model: Decoder, *, mesh: DeviceMesh, expert_mesh: DeviceMesh | None, is_pipelined: bool) -> None:
    """Shard every block, then the rest, over the mesh; storage and reduction are fp32, compute is the model's dtype.

    Args:
        model: On the meta device or not; its parameters become DTensors.
        mesh: One axis for FSDP, two (replicas, shards) for HSDP; context parallel ranks are shards as well.
        expert_mesh: Mesh for routed experts; None leaves them whole.
        is_pipelined: Keep weights gathered between micro-batches, or each would gather them again.
    """
    # Inputs are cast by the model, so that the loss and the angles keep their dtype.
    policy = MixedPrecisionPolicy(param_dtype=model.dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    shard = partial(fully_shard, mp_policy=policy, reshard_after_forward=not is_pipelined)
    whole: set[nn.Parameter] = set()
    for block in (*model.blocks.values(), *model.mtp.values()):
        for name, module in block.named_modules():
            if name.endswith("experts"):
                if expert_mesh is None:
                    whole.update(module.parameters())
                else:
                    shard(module, mesh=expert_mesh, shard_placement_fn=partial(_placement, mesh=expert_mesh))
        shard(block, mesh=mesh, ignored_params=whole)
    # Embedding and head stay gathered: backward needs them first.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=False, ignored_params=whole)
    register_fsdp_forward_method(model, Decoder.through_no_layer.__name__)


def take_up_gradients(model: FSDPModule) -> None:
    """Have FSDP add up, or reduce, gradients that were computed outside a backward pass of the model.

    FSDP does so at the end of each backward pass. This runs one that has no layer, so it computes nothing itself.

    Args:
        model: Model from apply_fsdp; its settings say whether gradients are reduced and weights resharded.
    """
    assert isinstance(model, Decoder)  # noqa: S101 (there is nothing else)
    nothing = torch.zeros((), device=next(model.parameters()).device, requires_grad=True)
    torch.autograd.backward(model.through_no_layer(nothing))


def _placement(weight: nn.Parameter, *, mesh: DeviceMesh) -> Shard:
    return Shard(sharded_dim(weight.shape, num_shards=mesh.size(-1), is_expert=True))


def apply_ddp(model: Decoder, *, group: ProcessGroup, ignored: Collection[str]) -> DistributedDataParallel:
    """Wrap the model in DDP, which averages gradients over the group while backward runs.

    Weights come from seeds and are equal already, so nothing is broadcast.

    Args:
        model: On its device.
        group: Ranks with the same weights.
        ignored: Names of weights that differ between these ranks: routed experts.
    """
    # torch has no public, typed name for it.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, ignored)  # type: ignore[no-untyped-call]  # noqa: SLF001
    return DistributedDataParallel(model, process_group=group, gradient_as_bucket_view=True, init_sync=False)


def gradient_sync(model: nn.Module, *, is_on: bool) -> AbstractContextManager[None]:
    """Return the context for forward and backward of a micro-batch, with or without the averaging of gradients.

    Args:
        model: Model from parallelize.
        is_on: Average gradients over the replicas; off for all but the last micro-batch. FSDP's shards are reduced
            in each, or every rank would keep the whole gradient in fp32 until the last.
    """
    if isinstance(model, FSDPModule):
        model.set_requires_all_reduce(is_on)
    elif isinstance(model, DistributedDataParallel) and not is_on:
        return model.no_sync()
    return nullcontext()
