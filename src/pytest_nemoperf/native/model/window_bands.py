"""Attention within windows in bands: a query's scores are two windows wide instead of a whole sequence.

The sequence is cut into blocks as long as the window. A query sees keys of its own block and the one before, so that
one mask of a block's queries and two blocks' keys serves all blocks but the first. Chunked windows are the blocks
themselves and need no mask.

References:
    Beltagy et al. 2020, section 3.1 (sliding chunks), https://arxiv.org/abs/2004.05150
"""

# B sequences, S queries of a sequence (its keys are as many), H query heads, K key-value heads, C width of a head,
# N blocks of a sequence, W positions of a block, R blocks of all sequences

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pytest_nemoperf.native.model.attention_core import SoftmaxCore


class BandedCore(SoftmaxCore):
    """SoftmaxCore that computes windows in bands; without a window, or for parts of a sequence, as SoftmaxCore does."""

    __slots__ = ()

    def __call__(
        self,
        q_BHSC: Tensor,
        k_BKTC: Tensor,
        v_BKTC: Tensor,
        *,
        first_query: int = 0,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        """Return one value per query and head (BHSC); see ``Core``."""
        num_queries = q_BHSC.shape[2]
        if self.window is None or first_query > 0 or num_queries <= self.window:
            return super().__call__(q_BHSC, k_BKTC, v_BKTC, first_query=first_query, sinks_H=sinks_H)
        window = self.window
        q_BNHWC = _blocks(q_BHSC, window=window)
        k_BNKWC = _blocks(k_BKTC[:, :, :num_queries], window=window)
        v_BNKWC = _blocks(v_BKTC[:, :, :num_queries], window=window)
        num_sequences = len(q_BNHWC)
        if self.is_chunked:
            blocks = (q_BNHWC.flatten(0, 1), k_BNKWC.flatten(0, 1), v_BNKWC.flatten(0, 1))
            out_RHWC = super().__call__(*blocks, sinks_H=sinks_H)
            return _joined(torch.unflatten(out_RHWC, 0, (num_sequences, -1)), num_queries=num_queries)
        first_BHWC = super().__call__(q_BNHWC[:, 0], k_BNKWC[:, 0], v_BNKWC[:, 0], sinks_H=sinks_H)
        own_WW = self.masks.mask(window=None, is_chunked=False, first_query=0, num_queries=window, device=q_BHSC.device)
        # A key of the block before is visible if it comes after the query's place in its own block.
        band_W2W = torch.cat([~own_WW, own_WW], dim=1)
        rest_RHWC = self.masked(
            q_BNHWC[:, 1:].flatten(0, 1),
            _with_block_before(k_BNKWC),
            _with_block_before(v_BNKWC),
            visible=band_W2W,
            sinks_H=sinks_H,
        )
        out_BNHWC = torch.cat([first_BHWC[:, None], torch.unflatten(rest_RHWC, 0, (num_sequences, -1))], dim=1)
        return _joined(out_BNHWC, num_queries=num_queries)


def _blocks(x_BHSC: Tensor, *, window: int) -> Tensor:
    """Return the sequence in blocks (BNHWC); the last one is filled with positions that no query before them sees."""
    missing = -x_BHSC.shape[2] % window
    padded_BHSC = F.pad(x_BHSC, (0, 0, 0, missing))
    return torch.unflatten(padded_BHSC, 2, (-1, window)).transpose(1, 2)


def _with_block_before(x_BNKWC: Tensor) -> Tensor:
    """Return each block but the first, behind the one before it, of all sequences."""
    return torch.cat([x_BNKWC[:, :-1], x_BNKWC[:, 1:]], dim=3).flatten(0, 1)


def _joined(out_BNHWC: Tensor, *, num_queries: int) -> Tensor:
    return out_BNHWC.transpose(1, 2).flatten(2, 3)[:, :, :num_queries]
