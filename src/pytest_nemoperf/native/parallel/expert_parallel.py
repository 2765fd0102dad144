"""Expert parallelism: every rank has some experts, or a part of each; an all-to-all sends tokens to them and back.

No token is dropped and no expert is padded: ranks exchange their row counts, then the rows by an uneven all-to-all.
With expert tensor parallelism (etp) all ranks with a part of an expert get its rows, and the sender sums their
partial outputs; so one exchange serves both axes.

References:
    Lepikhin et al. 2020, https://arxiv.org/abs/2006.16668; Gale et al. 2022, https://arxiv.org/abs/2211.15841
"""

# R rows (one for each expert of each token, sorted by expert), P rows this rank receives, D width, E experts,
# L experts of one rank, N ranks of the exchange

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from pytest_nemoperf.native.model.moe import Experts
from pytest_nemoperf.native.model.operators import copy_rows
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel.collectives import all_to_all


def apply_expert_parallel(model: Decoder, *, group: ProcessGroup, etp: int) -> None:
    """Exchange the rows of every mixture of experts with the ranks of their experts.

    Args:
        model: On the meta device or not, changed in place; ``shard_weights`` cuts its weights.
        group: Ranks that have all experts between them, in the order (ep, etp).
        etp: Ranks that share one expert.
    """
    for module in model.modules():
        if isinstance(module, Experts):
            module.exchange = _TokenDispatcher(module, group=group, etp=etp)
            module.bias_share = 1 / etp  # the outputs of an expert's ranks are summed


class _TokenDispatcher:
    """Sends rows to their experts' ranks, computes received rows, and sends the outputs back."""

    def __init__(self, experts: Experts, *, group: ProcessGroup, etp: int) -> None:
        self._experts = experts
        self._group = group
        self._etp = etp

    def __call__(self, x_RD: Tensor, counts_E: Tensor) -> Tensor:
        etp = self._etp
        num_ranks = self._group.size()
        sent_NL = counts_E.view(num_ranks // etp, -1).repeat_interleave(etp, dim=0)
        received_NL = torch.empty_like(sent_NL)
        dist.all_to_all_single(received_NL, sent_NL, group=self._group)
        # The one synchronisation with the device: the host must know the number of rows.
        sends, receives = torch.stack([sent_NL.sum(1), received_NL.sum(1)]).tolist()
        if etp > 1:
            copies: list[Tensor] = []
            for rows in torch.split(x_RD, sends[::etp]):
                copies += [rows] * etp
            x_RD = torch.cat(copies)
        x_PD = all_to_all(x_RD, group=self._group, sends=sends, receives=receives)
        order_P, place_P = _by_expert(received_NL, num_rows=x_PD.shape[0])
        x_PD = copy_rows(x_PD, num_copies=1, order_R=order_P, inverse_R=place_P)
        out_PD = self._experts.compute(x_PD, received_NL.sum(0))
        out_PD = copy_rows(out_PD, num_copies=1, order_R=place_P, inverse_R=order_P)
        returned = all_to_all(out_PD, group=self._group, sends=receives, receives=sends)
        if etp == 1:
            return returned
        parts = torch.split(returned, sends)
        return torch.cat([torch.stack(parts[first : first + etp]).sum(0) for first in range(0, num_ranks, etp)])


def _by_expert(counts_NL: Tensor, *, num_rows: int) -> tuple[Tensor, Tensor]:
    """Return the permutation that sorts received rows by expert, and its inverse, each (P)."""
    num_ranks, num_local = counts_NL.shape
    expert_NL = torch.arange(num_local, device=counts_NL.device).repeat(num_ranks)
    expert_P = expert_NL.repeat_interleave(counts_NL.flatten(), output_size=num_rows)
    order_P = expert_P.argsort(stable=True)
    place_P = torch.empty_like(order_P).scatter_(0, order_P, torch.arange(num_rows, device=order_P.device))
    return order_P, place_P
