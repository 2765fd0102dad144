"""Context parallelism: every rank of the axis has two pieces of each sequence, and attention sees all of it.

The sequence is cut into twice as many pieces as there are ranks, and rank r takes piece r from the front and
piece r from the back: under a causal mask the two cost together what any other rank's two cost. Attention gets
the whole sequence in one of two ways. ``all_gather`` gathers keys and values and attends with the local
queries, piece by piece. ``a2a`` (Ulysses) trades the pieces of all heads for the whole sequence of some heads; a
key-value head goes to each rank that gets query heads of it.

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

from pytest_nemoperf.native.attention import Attention
from pytest_nemoperf.native.attention_core import Core
from pytest_nemoperf.native.collectives import all_gather, all_to_all
from pytest_nemoperf.native.mesh import RankMesh
from pytest_nemoperf.native.mla import LatentAttention
from pytest_nemoperf.native.model import Decoder


def local_positions(seq_len: int, *, mesh: RankMesh) -> Tensor:
    """Return the positions of a rank's tokens: its piece from the front, then its piece from the back."""
    positions = torch.arange(seq_len, device="cpu")
    if mesh.cp is None:
        return positions
    pieces = positions.chunk(2 * mesh.cp.size())
    return torch.cat([pieces[mesh.cp.rank()], pieces[-1 - mesh.cp.rank()]])


def apply_context_parallel(model: Decoder, *, group: ProcessGroup, comm: str) -> None:
    """Let every attention of the model see the whole sequence.

    Args:
        model: Its tokens are those of ``local_positions``.
        group: Ranks of the cp axis.
        comm: ``all_gather`` or ``a2a``.
    """
    wrapper: type[_WholeSequence] = _GatheredKeys if comm == "all_gather" else _TradedHeads
    for module in model.modules():
        if isinstance(module, (Attention, LatentAttention)):
            module.core = wrapper(module.core, group=group)


class _WholeSequence(ABC):
    """Stands for the core of attention where a rank has some tokens of each sequence."""

    def __init__(self, core: Core, *, group: ProcessGroup) -> None:
        self._core = core
        self._group = group

    def __call__(
        self, q_BHSC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, *, first_query: int = 0, sinks_H: Tensor | None = None
    ) -> Tensor:
        """Return one value per local query, as Core says; keys and values are the local ones, too."""
        assert first_query == 0  # noqa: S101 (attention knows of its own tokens alone)
        return self._attend(q_BHSC, k_BKTC, v_BKTC, sinks_H=sinks_H)

    @abstractmethod
    def _attend(self, q_BHSC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, *, sinks_H: Tensor | None) -> Tensor: ...


class _GatheredKeys(_WholeSequence):
    """Attends with the local queries to the keys of the whole sequence."""

    def _attend(self, q_BHSC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, *, sinks_H: Tensor | None) -> Tensor:
        cp, rank, piece = self._group.size(), self._group.rank(), q_BHSC.shape[2] // 2
        k_BKTC, v_BKTC = (_in_order(_gather_pieces(x, self._group), cp=cp, dim=2) for x in (k_BKSC, v_BKSC))
        outs = []
        for q_BHsC, number in zip(q_BHSC.chunk(2, dim=2), (rank, 2 * cp - 1 - rank), strict=True):
            seen = (number + 1) * piece
            k_BKsC, v_BKsC = k_BKTC[:, :, :seen], v_BKTC[:, :, :seen]
            outs.append(self._core(q_BHsC, k_BKsC, v_BKsC, first_query=number * piece, sinks_H=sinks_H))
        return torch.cat(outs, dim=2)


class _TradedHeads(_WholeSequence):
    """Attends with some heads of the whole sequence."""

    def _attend(self, q_BHSC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, *, sinks_H: Tensor | None) -> Tensor:
        cp = self._group.size()
        k_BKSC, v_BKSC = _copy_heads(k_BKSC, cp=cp), _copy_heads(v_BKSC, cp=cp)
        q_BGTC, k_BGTC, v_BGTC = (
            _in_order(_trade_heads(x, self._group), cp=cp, dim=2) for x in (q_BHSC, k_BKSC, v_BKSC)
        )
        sinks_G = None if sinks_H is None else sinks_H.chunk(cp)[self._group.rank()]
        out_BGTC = self._core(q_BGTC, k_BGTC, v_BGTC, sinks_H=sinks_G)
        return _trade_back(_in_pieces(out_BGTC, cp=cp, dim=2), self._group)


def _gather_pieces(x_BKSC: Tensor, group: ProcessGroup) -> Tensor:
    """Return every rank's two pieces, one rank after the other, along the sequence."""
    gathered_PKBC = all_gather(x_BKSC.transpose(0, 2), group=group)
    return gathered_PKBC.transpose(0, 2)


def _copy_heads(x_BKSC: Tensor, *, cp: int) -> Tensor:
    """Return each key or value head once for each rank that has query heads of it, where ranks outnumber the heads."""
    num_copies = cp // x_BKSC.shape[1]
    return x_BKSC if num_copies <= 1 else x_BKSC.repeat_interleave(num_copies, dim=1)


def _trade_heads(x_BHSC: Tensor, group: ProcessGroup) -> Tensor:
    """Return some heads of every rank's pieces, one rank after the other along the sequence."""
    cp = group.size()
    received = all_to_all(torch.cat(x_BHSC.chunk(cp, dim=1), dim=0), group=group)
    return torch.cat(received.chunk(cp, dim=0), dim=2)


def _trade_back(x_BGTC: Tensor, group: ProcessGroup) -> Tensor:
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
    pairs = [(pieces[rank], pieces[2 * cp - 1 - rank]) for rank in range(cp)]
    return torch.cat([piece for pair in pairs for piece in pair], dim=dim)
