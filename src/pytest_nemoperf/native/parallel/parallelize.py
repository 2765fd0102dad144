"""Parallelize a plan's model: every axis and option, applied in an order in which they compose."""

from __future__ import annotations

import torch
from torch import nn

from pytest_nemoperf.models.weights import model_weights
from pytest_nemoperf.native.model.compiling import apply_compile
from pytest_nemoperf.native.model.precision import apply_precision
from pytest_nemoperf.native.model.recompute import apply_recompute
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel.context_parallel import apply_context_parallel, local_positions
from pytest_nemoperf.native.parallel.data_parallel import apply_ddp, apply_fsdp
from pytest_nemoperf.native.parallel.expert_parallel import apply_expert_parallel
from pytest_nemoperf.native.parallel.initialize import initialize
from pytest_nemoperf.native.parallel.mesh import RankMesh
from pytest_nemoperf.native.parallel.pipeline import build_chunks
from pytest_nemoperf.native.parallel.sharding import shard_weights
from pytest_nemoperf.native.parallel.tensor_parallel import apply_tensor_parallel
from pytest_nemoperf.recipes.recipe import Plan, Precision


def compute_dtype(precision: Precision) -> torch.dtype:
    """Return the dtype of activations and matrix products."""
    if precision is Precision.FP32:
        return torch.float32
    return torch.bfloat16  # 8-bit and 4-bit formats are internal to transformer-engine's products


def generation_dtype(plan: Plan) -> torch.dtype:
    """Return the dtype of a generator's weights; vLLM quantizes those of fp8 itself when it loads them."""
    return torch.float32 if plan.generation_precision == "fp32" else torch.bfloat16


def parallelize(plan: Plan, *, mesh: RankMesh, device: torch.device, is_trained: bool = True) -> tuple[nn.Module, ...]:
    """Return this rank's model, ready to train, or its chunks of a pipeline.

    Args:
        plan: Model, precision, layout and seed.
        mesh: Process groups from build_mesh.
        device: Device of this rank.
        is_trained: Compute and communicate gradients; otherwise the weights are frozen.

    Raises:
        PlanError: If the layout doesn't fit the model.
    """
    chunks = build_chunks(plan, group=mesh.pp, dtype=compute_dtype(plan.precision))
    for chunk in chunks:
        _parallelize_chunk(chunk, plan=plan, mesh=mesh, device=device)
        chunk.requires_grad_(is_trained)
    if is_trained and mesh.replicas is not None and mesh.pp is None:
        # A pipeline's gradients are averaged after its last pass.
        ignored = [weight.name for weight in model_weights(plan.model) if weight.is_expert]
        return tuple(apply_ddp(chunk, group=mesh.replicas, ignored=ignored) for chunk in chunks)
    return chunks


def _parallelize_chunk(model: Decoder, *, plan: Plan, mesh: RankMesh, device: torch.device) -> None:
    layout = plan.layout
    weights = {weight.name: weight for weight in model_weights(plan.model)}
    if mesh.cp is not None:
        model.positions_S = local_positions(plan.seq_len, mesh=mesh)
        apply_context_parallel(model, group=mesh.cp, comm=layout.cp_comm)
    if mesh.tp is not None:
        apply_tensor_parallel(model, group=mesh.tp, sequence_parallel=layout.sequence_parallel)
    if mesh.experts is not None:
        apply_expert_parallel(model, group=mesh.experts, etp=layout.etp)
    apply_precision(model, precision=plan.precision, amax_group=mesh.stage)
    apply_recompute(model, recompute=plan.recompute)
    if plan.is_compiled:
        apply_compile(model)
    shard_weights(model, weights=weights, mesh=mesh)
    if mesh.shards is not None:
        apply_fsdp(model, mesh=mesh.shards, expert_mesh=mesh.expert_shards, is_pipelined=layout.pp > 1)
    # After FSDP, which takes weights on the meta device, so that no rank allocates a whole model; before DDP, which
    # needs them allocated.
    initialize(model, weights=weights, mesh=mesh, seed=plan.seed, device=device)
