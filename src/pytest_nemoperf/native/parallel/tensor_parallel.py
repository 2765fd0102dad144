"""Tensor parallelism: every rank of the axis holds a shard of each matrix, and hooks do the communication.

The first matrix of a sub-layer is split by rows (each rank has whole heads, or part of the MLP's width; ranks that
outnumber the key-value heads hold copies of these, see ``ShardSpec.max_parts``), the second by columns, so that a
sub-layer needs one collective on the way in and one on the way out. With sequence parallelism the residual stream
between the sub-layers is split over the tokens, and the pair is an all-gather and a reduce-scatter; without, every
rank holds all tokens, and it is an identity and an all-reduce. Embedding, head and loss are split over the vocabulary.

Plain tensors and own collectives instead of DTensor: half the Python per product, no sharding propagation in
the first step, and DDP, which can't reduce DTensors, composes with it as FSDP does.

References:
    Shoeybi et al. 2019, https://arxiv.org/abs/1909.08053; Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198
"""

# T tokens, D hidden, V vocabulary (this rank's rows)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from pytest_nemoperf.native.model.attention import Attention
from pytest_nemoperf.native.model.mla import LatentAttention
from pytest_nemoperf.native.model.mlp import MLP
from pytest_nemoperf.native.model.moe import Experts
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.model.value_head import ValueHead
from pytest_nemoperf.native.parallel.collectives import (
    all_gather,
    all_gather_replicated,
    all_reduce,
    all_reduce_gradient,
    reduce_scatter,
)


def apply_tensor_parallel(model: Decoder, *, group: ProcessGroup, sequence_parallel: bool) -> None:
    """Register the communication hooks; the weights are cut by ``shard_weights``.

    Args:
        model: On the meta device, changed in place.
        group: Ranks of the tp axis.
        sequence_parallel: Split the tokens of the residual stream over the axis.
    """
    if sequence_parallel:
        enter = partial(all_gather, group=group)
        leave = partial(reduce_scatter, group=group)
    else:
        enter = partial(all_reduce_gradient, group=group)
        leave = partial(all_reduce, group=group)
    for sublayer in model.modules():
        if isinstance(sublayer, (Attention, LatentAttention, MLP)):
            sublayer.register_forward_pre_hook(partial(_forward_pre_hook, enter))
            sublayer.register_forward_hook(partial(_forward_hook, leave))
    vocabulary = VocabShard.of(group, num_rows=model.config.vocab_size)
    if model.embedding is not None:
        model.embedding.register_forward_hook(partial(_forward_hook, leave))
        model.embedding.lookup = partial(_lookup, rows=vocabulary)
    if model.positions is not None and sequence_parallel:
        model.positions.own_tokens = partial(_own_tokens, group=group)
    if isinstance(model.head, ValueHead):
        if sequence_parallel:
            gather = partial(all_gather_replicated, group=group)
            model.head.register_forward_hook(partial(_forward_hook, gather))
    elif model.head is not None:
        model.head.register_forward_pre_hook(partial(_forward_pre_hook, enter))
        model.head.cross_entropy = partial(_cross_entropy, rows=vocabulary, group=group)


def sum_expert_parts(model: Decoder, *, group: ProcessGroup) -> None:
    """Sum the outputs of every mixture of experts over ranks that hold shards of the experts and the same tokens.

    Args:
        model: Changed in place.
        group: Ranks with the shards of the experts.
    """
    for module in model.modules():
        if isinstance(module, Experts):
            module.register_forward_hook(partial(_forward_hook, partial(all_reduce, group=group)))
            module.bias_share = 1 / group.size()


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabShard:
    """One rank's rows of the vocabulary: equally many on each rank, padded at the end.

    Attributes:
        first: First token of the shard.
        num_used: Rows with a token; the others are padding.
    """

    first: int
    num_used: int

    @classmethod
    def of(cls, group: ProcessGroup, *, num_rows: int) -> VocabShard:
        """Return this rank's shard of a vocabulary."""
        num_local = -(-num_rows // group.size())
        first = group.rank() * num_local
        return cls(first=first, num_used=max(0, min(num_local, num_rows - first)))


def _forward_pre_hook(enter: Callable[[Tensor], Tensor], module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    del module  # torch hands it to every hook
    return (enter(args[0]), *args[1:])


def _forward_hook(leave: Callable[[Tensor], Tensor], module: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
    del module, args  # as above
    return leave(out)


def _own_tokens(positions_T: Tensor, *, group: ProcessGroup) -> Tensor:
    return positions_T.chunk(group.size())[group.rank()]


def _lookup(tokens_T: Tensor, weight_VD: Tensor, *, rows: VocabShard) -> Tensor:
    """Look up tokens in this rank's rows of the table (T, D); zeros for tokens of other ranks."""
    local_T, is_elsewhere_T = _local_ids(tokens_T, rows=rows)
    return F.embedding(local_T, weight_VD).masked_fill(is_elsewhere_T[:, None], 0)


def _local_ids(ids_T: Tensor, *, rows: VocabShard) -> tuple[Tensor, Tensor]:
    local_T = ids_T - rows.first
    is_elsewhere_T = (local_T < 0) | (local_T >= rows.num_used)
    return local_T.masked_fill(is_elsewhere_T, 0), is_elsewhere_T


def _cross_entropy(logits_TV: Tensor, labels_T: Tensor, *, rows: VocabShard, group: ProcessGroup) -> Tensor:
    if rows.num_used < logits_TV.shape[-1]:
        is_padding_V = torch.arange(logits_TV.shape[-1], device=logits_TV.device) >= rows.num_used
        logits_TV = logits_TV.masked_fill(is_padding_V, -torch.inf)
    loss_T: Tensor = _VocabParallelCrossEntropy.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
        logits_TV.float(), labels_T, rows, group
    )
    return loss_T


class _VocabParallelCrossEntropy(torch.autograd.Function):
    """Cross entropy of each token over vocabulary-sharded logits, by two small all-reduces."""

    @staticmethod
    def forward(ctx: Any, logits_TV: Tensor, labels_T: Tensor, rows: VocabShard, group: ProcessGroup) -> Tensor:
        largest_T = logits_TV.amax(-1)
        dist.all_reduce(largest_T, op=dist.ReduceOp.MAX, group=group)
        shifted_TV = logits_TV - largest_T[:, None]
        local_T, is_elsewhere_T = _local_ids(labels_T, rows=rows)
        label_logit_T = shifted_TV.gather(1, local_T[:, None])[:, 0].masked_fill(is_elsewhere_T, 0)
        exp_TV = shifted_TV.exp_()
        sums_2T = torch.stack([label_logit_T, exp_TV.sum(-1)])
        dist.all_reduce(sums_2T, group=group)
        label_logit_T, sum_exp_T = sums_2T
        ctx.save_for_backward(exp_TV.div_(sum_exp_T[:, None]), local_T, is_elsewhere_T)
        loss_T: Tensor = sum_exp_T.log() - label_logit_T
        return loss_T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        softmax_TV, local_T, is_elsewhere_T = ctx.saved_tensors
        is_here_T1 = (~is_elsewhere_T).to(softmax_TV.dtype)[:, None]
        # In place: a micro-batch goes backward once, and the logits are the largest activation there is.
        softmax_TV.scatter_add_(1, local_T[:, None], -is_here_T1)
        return softmax_TV.mul_(grads[0][:, None]), None, None, None
