"""Context parallelism: every rank of the axis has two pieces of each sequence, and attention spans all of it.

The sequence is cut into twice as many pieces as there are ranks, and rank r takes piece r from the front and
piece r from the back, which balances the cost of a causal mask. Attention gets the whole sequence in one of two
ways. ``all_gather`` gathers keys and values and attends with the local queries, piece by piece. ``a2a`` (Ulysses)
exchanges the pieces of all heads for the whole sequence of some heads; a key-value head goes to each rank that gets
query heads of it.

References:
    Megatron-Core's context parallelism (balanced pieces); Jacobs et al. 2023, https://arxiv.org/abs/2309.14509
"""

# B sequences, S local tokens of a sequence, T tokens of the whole sequence, H query heads, K key-value heads,
# G heads this rank has of the whole sequence, C width of a head

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from pytest_nemoperf.native.model.attention import Attention
from pytest_nemoperf.native.model.attention_core import Core
from pytest_nemoperf.native.model.mla import LatentAttention
from pytest_nemoperf.native.model.transformer import Decoder
from pytest_nemoperf.native.parallel.collectives import all_gather, all_to_all
from pytest_nemoperf.native.parallel.mesh import RankMesh


def local_positions(seq_len: int, *, mesh: RankMesh) -> Tensor:
    """Return the positions of a rank's tokens: its piece from the front, then its piece from the back."""
    positions = torch.arange(seq_len, device="cpu")
    if mesh.cp is None:
        return positions
    pieces = positions.chunk(2 * mesh.cp.size())
    return torch.cat([pieces[mesh.cp.rank()], pieces[-1 - mesh.cp.rank()]])


def apply_context_parallel(model: Decoder, *, group: ProcessGroup, comm: str) -> None:
    """Wrap every attention core of the model so that it spans the whole sequence.

    Args:
        model: Changed in place; its tokens are those of ``local_positions``.
        group: Ranks of the cp axis.
        comm: ``all_gather`` or ``a2a``.
    """
    wrapper: type[_ContextParallelCore] = _AllGatherCore if comm == "all_gather" else _UlyssesCore
    for module in model.modules():
        if isinstance(module, (Attention, LatentAttention)):
            module.core = wrapper(module.core, group=group)


class _ContextParallelCore(ABC):
    """Attention core for local tokens, over the keys and values of the whole sequence."""

    def __init__(self, core: Core, *, group: ProcessGroup) -> None:
        self._core = core
        self._group = group

    def __call__(
        self, q_BHSC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, *, first_query: int = 0, sinks_H: Tensor | None = None
    ) -> Tensor:
        """Return one value per local query (BHSC), as in Core; keys and values are local, too."""
        assert first_query == 0  # noqa: S101 (attention passes its own tokens alone)
        return self._attend(q_BHSC, k_BKTC, v_BKTC, sinks_H=sinks_H)

    @abstractmethod
    def _attend(self, q_BHSC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, *, sinks_H: Tensor | None) -> Tensor: ...


class _AllGatherCore(_ContextParallelCore):
    """All-gathers keys and values, and attends with the local queries."""

    def _attend(self, q_BHSC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, *, sinks_H: Tensor | None) -> Tensor:
        cp = self._group.size()
        rank = self._group.rank()
        piece = q_BHSC.shape[2] // 2
        k_BKTC = _in_order(_gather_pieces(k_BKSC, self._group), cp=cp, dim=2)
        v_BKTC = _in_order(_gather_pieces(v_BKSC, self._group), cp=cp, dim=2)
        outs = []
        for q_BHsC, number in zip(q_BHSC.chunk(2, dim=2), (rank, 2 * cp - 1 - rank), strict=True):
            first = number * piece
            end = first + piece
            out_BHsC = self._core(q_BHsC, k_BKTC[:, :, :end], v_BKTC[:, :, :end], first_query=first, sinks_H=sinks_H)
            outs.append(out_BHsC)
        return torch.cat(outs, dim=2)


class _UlyssesCore(_ContextParallelCore):
    """Exchanges sequence pieces for heads by all-to-all, and attends over the whole sequence with some of the heads."""

    def _attend(self, q_BHSC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, *, sinks_H: Tensor | None) -> Tensor:
        cp = self._group.size()
        q_BGTC = _in_order(_sequence_to_heads(q_BHSC, self._group), cp=cp, dim=2)
        k_BGTC = _in_order(_sequence_to_heads(_copy_heads(k_BKSC, cp=cp), self._group), cp=cp, dim=2)
        v_BGTC = _in_order(_sequence_to_heads(_copy_heads(v_BKSC, cp=cp), self._group), cp=cp, dim=2)
        sinks_G = None if sinks_H is None else sinks_H.chunk(cp)[self._group.rank()]
        out_BGTC = self._core(q_BGTC, k_BGTC, v_BGTC, sinks_H=sinks_G)
        return _heads_to_sequence(_in_pieces(out_BGTC, cp=cp, dim=2), self._group)


def _gather_pieces(x_BKSC: Tensor, group: ProcessGroup) -> Tensor:
    """Return every rank's two pieces, one rank after the other, along the sequence."""
    gathered_PKBC = all_gather(x_BKSC.transpose(0, 2), group=group)
    return gathered_PKBC.transpose(0, 2)


def _copy_heads(x_BKSC: Tensor, *, cp: int) -> Tensor:
    """Repeat each key or value head for each rank that has query heads of it, if ranks outnumber the heads."""
    num_copies = cp // x_BKSC.shape[1]
    if num_copies <= 1:
        return x_BKSC
    return x_BKSC.repeat_interleave(num_copies, dim=1)


def _sequence_to_heads(x_BHSC: Tensor, group: ProcessGroup) -> Tensor:
    """Return some heads of every rank's pieces, one rank after the other along the sequence."""
    cp = group.size()
    received = all_to_all(torch.cat(x_BHSC.chunk(cp, dim=1), dim=0), group=group)
    return torch.cat(received.chunk(cp, dim=0), dim=2)


def _heads_to_sequence(x_BGTC: Tensor, group: ProcessGroup) -> Tensor:
    """Undo ``_sequence_to_heads``."""
    cp = group.size()
    received = all_to_all(torch.cat(x_BGTC.chunk(cp, dim=2), dim=0), group=group)
    return torch.cat(received.chunk(cp, dim=0), dim=1)


def _in_order(x: Tensor, *, cp: int, dim: int) -> Tensor:
    """Return the pieces (0, last, 1, last but one, ...) in the order of the sequence."""
    pieces = x.chunk(2 * cp, dim=dim)
    return torch.cat([*pieces[::2], *pieces[1::2][::-1]], dim=dim)


def _in_pieces(x: Tensor, *, cp: int, dim: int) -> Tensor:
    """Undo ``_in_order``."""
    pieces = x.chunk(2 * cp, dim=dim)
    by_rank: list[Tensor] = []
    for rank in range(cp):
        by_rank += [pieces[rank], pieces[2 * cp - 1 - rank]]
    return torch.cat(by_rank, dim=dim)
