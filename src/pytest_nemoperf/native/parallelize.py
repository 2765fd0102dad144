"""From a plan to this rank's model, in the order that composes."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from pytest_nemoperf.native.data_parallel import apply_ddp, apply_fsdp
from pytest_nemoperf.native.initialize import initialize
from pytest_nemoperf.native.model import Decoder
from pytest_nemoperf.native.tensor_parallel import apply_tensor_parallel
from pytest_nemoperf.recipe import Plan, Precision


def compute_dtype(precision: Precision) -> torch.dtype:
    """Return the number format of activations and matrix products."""
    match precision:
        case Precision.FP32:
            return torch.float32
        case Precision.BF16:
            return torch.bfloat16


def parallelize(plan: Plan, *, mesh: DeviceMesh | None, device: torch.device) -> nn.Module:
    """Return this rank's part of the plan's model, ready to train.

    Args:
        plan: Model, precision, layout and seed.
        mesh: From build_mesh.
        device: Of this rank.

    Raises:
        PlanError: If the layout doesn't fit the model.
    """
    layout = plan.layout
    with torch.device("meta"):
        model = Decoder(plan.model, seq_len=plan.seq_len, dtype=compute_dtype(plan.precision))
    whole_shapes = {name: weight.shape for name, weight in model.named_parameters()}
    parts = {}
    if mesh is not None and layout.tp > 1:
        group = mesh["tp"].get_group()
        parts = dict(apply_tensor_parallel(model, group=group, sequence_parallel=layout.sequence_parallel))
    if mesh is not None and layout.dp_shard > 1:
        apply_fsdp(model, mesh=mesh["dp_replicate", "dp_shard"] if layout.dp_replicate > 1 else mesh["dp_shard"])
    # DDP wants real weights, FSDP is content with shapes: allocating in between never holds a whole model.
    initialize(model, whole_shapes=whole_shapes, parts=parts, seed=plan.seed, device=device)
    if mesh is not None and layout.dp_replicate > 1 and layout.dp_shard == 1:
        return apply_ddp(model, mesh=mesh["dp_replicate"])
    return model
