"""What happens to gradients between backward and the optimizer: completed over tp, measured, clipped."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from pytest_nemoperf.native.model import RMSNorm
from pytest_nemoperf.parallelism import Layout


class Gradients:
    """Gradients of one rank's shards; all arithmetic is on local tensors, because ranks of different axes
    hold different parts and torch's clipping knows one mesh at a time.

    Args:
        model: As parallelize returned it.
        layout: Parallel degrees.
        mesh: Of the run.
    """  # noqa: D205 (one sentence)

    def __init__(self, model: nn.Module, *, layout: Layout, mesh: DeviceMesh | None) -> None:
        norms = [norm.weight for norm in model.modules() if isinstance(norm, RMSNorm)]
        is_norm = {id(weight) for weight in norms}
        self._whole_over_tp = norms
        self._split_over_tp = [weight for weight in model.parameters() if id(weight) not in is_norm]
        self._tp = layout.tp
        self._tp_group = _group(mesh, axis="tp", degree=layout.tp)
        self._shard_group = _group(mesh, axis="dp_shard", degree=layout.dp_shard)
        self.are_partial = layout.tp > 1 and layout.sequence_parallel

    def complete(self) -> None:
        """Sum the norms' gradients over the tp axis: under sequence parallelism each rank saw other tokens."""
        if not self.are_partial:
            return
        grads = _local_grads(self._whole_over_tp)
        flat = torch.cat(grads)  # one collective for all of them
        dist.all_reduce(flat, group=self._tp_group)
        torch._foreach_copy_(grads, torch.split(flat, [grad.numel() for grad in grads]))

    def clip(self, max_norm: float) -> Tensor:
        """Scale all gradients down to the norm if they exceed it.

        Returns:
            Norm of the whole gradient before clipping, the same on every rank; it stays on the device.
        """
        split, whole = _local_grads(self._split_over_tp), _local_grads(self._whole_over_tp)
        # Each rank of the tp axis holds the norms' gradients: a tp-th of each counts.
        squares = _norm(split).square() + _norm(whole).square() / self._tp
        for group in (self._tp_group, self._shard_group):
            if group is not None:
                dist.all_reduce(squares, group=group)
        norm = squares.sqrt()
        torch._foreach_mul_(split + whole, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm


def _norm(grads: list[Tensor]) -> Tensor:
    return torch.nn.utils.get_total_norm(grads, foreach=True)


def _local_grads(weights: Iterable[Tensor]) -> list[Tensor]:
    grads = (weight.grad for weight in weights)
    return [grad.to_local() if isinstance(grad, DTensor) else grad for grad in grads if grad is not None]


def _group(mesh: DeviceMesh | None, *, axis: str, degree: int) -> ProcessGroup | None:
    return mesh[axis].get_group() if mesh is not None and degree > 1 else None
