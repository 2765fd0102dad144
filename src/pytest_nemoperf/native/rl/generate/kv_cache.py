"""Key-value cache of generation, and the core of attention over it.

A pass of the model has its tokens in one row: one token of each active slot, then whole prompts. Only the attention
core needs to know which sequence a token belongs to; all other layers compute each token alone.
"""

# N active slots, L positions of a slot, T tokens of a pass (N, then those of prompts), P tokens of a prompt, E longest
# sequence in the cache so far, H query heads, K key-value heads, C width of a head (of values it may differ)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from pytest_nemoperf.native.model.attention import Attention
from pytest_nemoperf.native.model.attention_core import SoftmaxCore
from pytest_nemoperf.native.model.mla import LatentAttention
from pytest_nemoperf.native.model.transformer import Decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptChunk:
    """A prompt in a pass.

    Attributes:
        num_tokens: Tokens of the prompt.
        slots: Slots of the sequences that begin with it, on the device.
    """

    num_tokens: int
    slots: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardBatch:
    """Layout of one pass's tokens.

    Attributes:
        positions_N: Positions of the slots' tokens.
        rows_N: Rows of the cache for their keys and values: slot * L + position.
        longest: Tokens of the longest of these sequences, the new ones included (E).
        chunks: Prompts, which follow the slots' tokens.
        masks: Masks added to the slots' scores, by window and its kind; filled on first use.
    """

    positions_N: Tensor
    rows_N: Tensor
    longest: int
    chunks: Sequence[PromptChunk] = ()
    masks: dict[tuple[int | None, bool], Tensor] = field(default_factory=dict)

    def mask_NE(self, core: SoftmaxCore, *, dtype: torch.dtype) -> Tensor:
        """Return the mask of the slots' tokens: 0 for visible keys, -inf for others."""
        key = (core.window, core.is_chunked)
        if key not in self.masks:
            keys_E = torch.arange(self.longest, device=self.positions_N.device)
            positions_N1 = self.positions_N[:, None]
            is_hidden_NE = keys_E > positions_N1
            if core.window is not None and core.is_chunked:
                is_hidden_NE |= keys_E // core.window != positions_N1 // core.window
            elif core.window is not None:
                is_hidden_NE |= keys_E <= positions_N1 - core.window
            mask_NE = torch.zeros(is_hidden_NE.shape, dtype=dtype, device=keys_E.device)
            self.masks[key] = mask_NE.masked_fill_(is_hidden_NE, -torch.inf)
        return self.masks[key]


class CachedAttention:
    """Core of attention of one layer over the cache.

    Args:
        inner: The layer's own core.
        cache: Cache of the model.
    """

    def __init__(self, inner: SoftmaxCore, *, cache: KVCache) -> None:
        self.inner = inner
        self._cache = cache
        self.keys_NLKC: Tensor | None = None
        self.values_NLKC: Tensor | None = None

    def __call__(
        self,
        q_BHSC: Tensor,
        k_BKTC: Tensor,
        v_BKTC: Tensor,
        *,
        first_query: int = 0,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        """Return one value per query and head, as Core does; the only sequence of the call is a pass."""
        del first_query  # every token has a position of its own
        batch = self._cache.batch
        num_decoding = batch.rows_N.shape[0]
        parts = []
        if num_decoding:
            q_NHC = q_BHSC[0, :, :num_decoding].transpose(0, 1)
            k_NKC = k_BKTC[0, :, :num_decoding].transpose(0, 1)
            v_NKC = v_BKTC[0, :, :num_decoding].transpose(0, 1)
            values_NHC = self._decode(q_NHC, k_NKC, v_NKC, batch=batch, sinks_H=sinks_H)
            parts.append(values_NHC.transpose(0, 1)[None])
        first = num_decoding
        for length, equally_long in groupby(batch.chunks, key=lambda chunk: chunk.num_tokens):
            chunks = list(equally_long)
            last = first + len(chunks) * length
            q = _rows(q_BHSC[:, :, first:last], num_rows=len(chunks))
            k = _rows(k_BKTC[:, :, first:last], num_rows=len(chunks))
            v = _rows(v_BKTC[:, :, first:last], num_rows=len(chunks))
            self._store(k, v, chunks=chunks)
            parts.append(self.inner(q, k, v, sinks_H=sinks_H).transpose(0, 1).flatten(1, 2)[None])
            first = last
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def move(self, free_slots: Tensor, moved_slots: Tensor, *, longest: int) -> None:
        """Copy keys and values of the moved slots to the free slots."""
        for stored_NLKC in (self.keys_NLKC, self.values_NLKC):
            if stored_NLKC is not None:
                stored_NLKC[free_slots, :longest] = stored_NLKC[moved_slots, :longest]

    def _decode(
        self, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor, *, batch: ForwardBatch, sinks_H: Tensor | None
    ) -> Tensor:
        """Store the slots' new keys and values, and return their tokens' values (N, H, C)."""
        keys_NLKC, values_NLKC = self._stored(k_NKC, v_NKC)
        keys_NLKC.flatten(0, 1).index_copy_(0, batch.rows_N, k_NKC)
        values_NLKC.flatten(0, 1).index_copy_(0, batch.rows_N, v_NKC)
        num_slots = q_NHC.shape[0]
        k_NKEC = keys_NLKC[:num_slots, : batch.longest].transpose(1, 2)
        v_NKEC = values_NLKC[:num_slots, : batch.longest].transpose(1, 2)
        mask_NE = batch.mask_NE(self.inner, dtype=q_NHC.dtype)
        return self.inner.decode(q_NHC, k_NKEC, v_NKEC, visible_BT=mask_NE, sinks_H=sinks_H)

    def _store(self, k_BKPC: Tensor, v_BKPC: Tensor, *, chunks: Sequence[PromptChunk]) -> None:
        """Store keys and values of prompts of one length, each for all of its slots."""
        length = k_BKPC.shape[2]
        keys_NLKC, values_NLKC = self._stored(k_BKPC[:, :, 0], v_BKPC[:, :, 0])
        for number, chunk in enumerate(chunks):
            keys_NLKC[chunk.slots, :length] = k_BKPC[number].transpose(0, 1)
            values_NLKC[chunk.slots, :length] = v_BKPC[number].transpose(0, 1)

    def _stored(self, k_NKC: Tensor, v_NKC: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's memory, allocated on first use in the type and shape of these keys and values."""
        if self.keys_NLKC is None or self.values_NLKC is None:
            # Zeros: hidden keys and values are multiplied by 0, and must not be NaN.
            shape = (self._cache.num_slots, self._cache.max_len)
            self.keys_NLKC = k_NKC.new_zeros(*shape, *k_NKC.shape[1:])
            self.values_NLKC = v_NKC.new_zeros(*shape, *v_NKC.shape[1:])
        return self.keys_NLKC, self.values_NLKC


class KVCache:
    """Keys and values of the sequences in the slots, for all layers of a model or pipeline stage.

    Args:
        model: The core of each of its attentions is replaced by one over this cache.

    Attributes:
        batch: Layout of the present pass.
    """

    def __init__(self, model: Decoder) -> None:
        self.num_slots = 0
        self.max_len = 0
        self.batch = ForwardBatch(positions_N=torch.empty(0), rows_N=torch.empty(0), longest=0)
        self._cores: list[CachedAttention] = []
        for module in model.modules():
            if isinstance(module, (Attention, LatentAttention)):
                assert isinstance(module.core, SoftmaxCore)  # noqa: S101 (nothing was put around it)
                module.core = CachedAttention(module.core, cache=self)
                self._cores.append(module.core)

    def reserve(self, num_slots: int, *, max_len: int) -> None:
        """Reserve memory for slots of ``max_len`` tokens, if there is less; layers allocate on first use."""
        if num_slots > self.num_slots or max_len > self.max_len:
            self.release()
            self.num_slots = num_slots
            self.max_len = max_len

    def release(self) -> None:
        """Free the memory."""
        self.num_slots = self.max_len = 0
        for core in self._cores:
            core.keys_NLKC = core.values_NLKC = None
            core.inner.masks.made.clear()

    def move(self, free_slots: Tensor, moved_slots: Tensor, *, longest: int) -> None:
        """Copy the moved slots to the free slots; ``longest`` is the number of tokens to copy of each."""
        for core in self._cores:
            core.move(free_slots, moved_slots, longest=longest)


def _rows(x_BNTC: Tensor, *, num_rows: int) -> Tensor:
    """Split the row of a pass into equally long ones."""
    return torch.unflatten(x_BNTC[0], 1, (num_rows, -1)).transpose(0, 1)
