"""Tensor parallelism: every rank of the axis holds a part of each matrix, and hooks do the communication.

The first matrix of a sub-layer is split by rows (each rank has whole heads, or part of the MLP's width), the
second by columns, so that a sub-layer needs one collective on the way in and one on the way out. With
sequence parallelism the residual stream between the sub-layers is split over the tokens, and the pair is an
all-gather and a reduce-scatter; without, every rank holds all tokens, and it is an identity and an
all-reduce. Embedding, head and loss are split over the vocabulary.

Plain tensors and own collectives instead of DTensor: half the Python per product, no sharding propagation in
the first step, and DDP, which can't reduce DTensors, composes with it as FSDP does.

References:
    Shoeybi et al. 2019, https://arxiv.org/abs/1909.08053; Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198
"""

# T tokens, D hidden, V vocabulary (this rank's rows)

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.native.collectives import all_gather, all_reduce, all_reduce_gradient, reduce_scatter
from pytest_nemoperf.native.model import MLP, Attention, Decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which part of a whole weight a rank of the tp axis holds.

    Attributes:
        dim: Dimension that is split.
        sections: Lengths along it that are split one by one, so that a rank gets its part of each of the
            matrices fused into one; empty for a weight that is one matrix.
        tp: Degree of the axis.
        tp_rank: Place in it.
    """

    dim: int
    sections: tuple[int, ...] = ()
    tp: int
    tp_rank: int

    def take(self, whole: Tensor) -> Tensor:
        """Return this rank's part, contiguous."""
        sections = torch.split(whole, list(self.sections), self.dim) if self.sections else (whole,)
        return torch.cat([section.chunk(self.tp, self.dim)[self.tp_rank] for section in sections], self.dim)


def apply_tensor_parallel(model: Decoder, *, group: ProcessGroup, sequence_parallel: bool) -> Mapping[str, Part]:
    """Keep this rank's part of every matrix and hook the communication in.

    Args:
        model: On the meta device; it is changed.
        group: Ranks of the tp axis.
        sequence_parallel: Split the tokens of the residual stream over the axis.

    Returns:
        By name of the weight, which part of the whole this rank holds. Weights that are not named (the
        norms) are whole on every rank.

    Raises:
        PlanError: If a size of the model is not a multiple of the degree.
    """
    check_divisible(model, tp=group.size(), sequence_parallel=sequence_parallel)
    enter = partial(all_gather if sequence_parallel else all_reduce_gradient, group=group)
    leave = partial(reduce_scatter if sequence_parallel else all_reduce, group=group)
    for sublayer in model.modules():
        if isinstance(sublayer, (Attention, MLP)):
            sublayer.register_forward_pre_hook(partial(_enter, enter))
            sublayer.register_forward_hook(partial(_leave, leave))
    first_row = group.rank() * (model.config.vocab_size // group.size())
    if model.embedding is not None:
        model.embedding.register_forward_hook(partial(_leave, leave))
        model.embedding.lookup = partial(_lookup, first_row=first_row)
    if model.head is not None:
        model.head.register_forward_pre_hook(partial(_enter, enter))
        model.head.cross_entropy = partial(_cross_entropy_sum, first_row=first_row, group=group)
    parts = _parts(model, tp=group.size(), tp_rank=group.rank())
    for name, part in parts.items():
        owner, _, attribute = name.rpartition(".")
        weight = model.get_parameter(name)
        setattr(model.get_submodule(owner), attribute, nn.Parameter(part.take(weight.detach())))
    return parts


def check_divisible(model: Decoder, *, tp: int, sequence_parallel: bool) -> None:
    """Check that every rank gets an equal part.

    Raises:
        PlanError: If not; the message names the size.
    """
    sizes = {name: getattr(model.config, name) for name in ("num_kv_heads", "ffn_hidden_size", "vocab_size")}
    if sequence_parallel:
        sizes["seq_len"] = model.seq_len
    for name, size in sizes.items():
        if size % tp:
            raise PlanError(
                f"tp={tp} does not divide {name}={size}; every rank must hold an equal part: choose another tp"
            )


def _parts(model: Decoder, *, tp: int, tp_rank: int) -> dict[str, Part]:
    config: ModelConfig = model.config
    part = partial(Part, tp=tp, tp_rank=tp_rank)
    kv_rows = config.num_kv_heads * config.head_dim
    parts_of_block = {
        "attention.qkv.weight": part(dim=0, sections=(config.num_heads * config.head_dim, kv_rows, kv_rows)),
        "attention.out.weight": part(dim=1),
        "mlp.gate_up.weight": part(dim=0, sections=(config.ffn_hidden_size, config.ffn_hidden_size)),
        "mlp.down.weight": part(dim=1),
    }
    parts = {
        f"blocks.{layer}.{name}": part_of_weight
        for layer in range(config.num_layers)
        for name, part_of_weight in parts_of_block.items()
    }
    parts["embedding.weight"] = part(dim=0)
    if not config.tied_embeddings:
        parts["head.weight"] = part(dim=0)
    return parts


def _enter(enter: Callable[[Tensor], Tensor], module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    del module  # torch hands it to every hook
    return (enter(args[0]), *args[1:])


def _leave(leave: Callable[[Tensor], Tensor], module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    del module, args  # as above
    return leave(out)


def _lookup(tokens_T: Tensor, weight_VD: Tensor, *, first_row: int) -> Tensor:
    """Return rows of the table for the tokens whose row is here, and zeros for the others."""
    local_T, is_elsewhere_T = _local_ids(tokens_T, first_row=first_row, num_rows=weight_VD.shape[0])
    return F.embedding(local_T, weight_VD).masked_fill(is_elsewhere_T[:, None], 0)


def _local_ids(ids_T: Tensor, *, first_row: int, num_rows: int) -> tuple[Tensor, Tensor]:
    local_T = ids_T - first_row
    is_elsewhere_T = (local_T < 0) | (local_T >= num_rows)
    return local_T.masked_fill(is_elsewhere_T, 0), is_elsewhere_T


def _cross_entropy_sum(logits_TV: Tensor, labels_T: Tensor, *, first_row: int, group: ProcessGroup) -> Tensor:
    loss: Tensor = _VocabParallelCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
        logits_TV.float(), labels_T, first_row, group
    )
    return loss


class _VocabParallelCrossEntropy(torch.autograd.Function):
    """Summed cross entropy over logits whose columns are split over the ranks; two small all-reduces."""

    @staticmethod
    def forward(ctx: Any, logits_TV: Tensor, labels_T: Tensor, first_row: int, group: ProcessGroup) -> Tensor:
        largest_T = logits_TV.amax(-1)
        dist.all_reduce(largest_T, op=dist.ReduceOp.MAX, group=group)
        shifted_TV = logits_TV - largest_T[:, None]
        local_T, is_elsewhere_T = _local_ids(labels_T, first_row=first_row, num_rows=logits_TV.shape[-1])
        label_logit_T = shifted_TV.gather(1, local_T[:, None])[:, 0].masked_fill(is_elsewhere_T, 0)
        exp_TV = shifted_TV.exp_()
        sums_2T = torch.stack([label_logit_T, exp_TV.sum(-1)])
        dist.all_reduce(sums_2T, group=group)
        label_logit_T, sum_exp_T = sums_2T
        ctx.save_for_backward(exp_TV.div_(sum_exp_T[:, None]), local_T, is_elsewhere_T)
        loss: Tensor = (sum_exp_T.log() - label_logit_T).sum()
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        softmax_TV, local_T, is_elsewhere_T = ctx.saved_tensors
        is_here_T1 = (~is_elsewhere_T).to(softmax_TV.dtype)[:, None]
        # In place: a micro-batch goes backward once, and the logits are the largest activation there is.
        softmax_TV.scatter_add_(1, local_T[:, None], -is_here_T1)
        return softmax_TV.mul_(grads[0]), None, None, None
