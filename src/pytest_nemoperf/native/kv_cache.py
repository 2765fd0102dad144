"""Keys and values of what was computed before, and the core of attention that works on them.

A pass of the model gets its tokens as one row: one token of each active slot, then whole prompts. Everything but the
core of attention takes them one by one; the core keeps apart what belongs to different sequences.
"""

# N active slots, L places of a slot, T tokens of a pass (N, then those of prompts), P tokens of a prompt, E longest
# sequence in the cache so far, H query heads, K key-value heads, C width of a head (of values it may differ)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from pytest_nemoperf.native.attention import Attention
from pytest_nemoperf.native.attention_core import SoftmaxCore
from pytest_nemoperf.native.mla import LatentAttention
from pytest_nemoperf.native.model import Decoder


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptChunk:
    """A prompt in a pass.

    Attributes:
        num_tokens: Of it.
        slots: Whose sequences begin with it, on the device.
    """

    num_tokens: int
    slots: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardBatch:
    """What the tokens of one pass are.

    Attributes:
        places_N: Positions of the slots' tokens.
        rows_N: Where their keys and values go: slot * L + position.
        longest: Tokens of the longest of these sequences, the new ones included (E).
        pieces: Prompts, which follow the slots' tokens.
        masks: By window and its kind: what is added to the slots' scores; filled on first use.
    """

    places_N: Tensor
    rows_N: Tensor
    longest: int
    pieces: Sequence[PromptChunk] = ()
    masks: dict[tuple[int | None, bool], Tensor] = field(default_factory=dict)

    def mask_NE(self, core: SoftmaxCore, *, dtype: torch.dtype) -> Tensor:
        """Return 0 where a slot's token sees the key, and -inf elsewhere."""
        key = (core.window, core.is_chunked)
        if key not in self.masks:
            keys_E = torch.arange(self.longest, device=self.places_N.device)
            places_N1 = self.places_N[:, None]
            is_hidden_NE = keys_E > places_N1
            if core.window is not None and core.is_chunked:
                is_hidden_NE |= keys_E // core.window != places_N1 // core.window
            elif core.window is not None:
                is_hidden_NE |= keys_E <= places_N1 - core.window
            shape = is_hidden_NE.shape
            self.masks[key] = torch.zeros(shape, dtype=dtype, device=keys_E.device).masked_fill_(
                is_hidden_NE, -torch.inf
            )
        return self.masks[key]


class CachedAttention:
    """Stands for the core of attention of one layer.

    Args:
        inner: What it stands for.
        cache: Of the model; it says what the tokens are.
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
        """Return one value per query and head, as Core says; the one sequence of the call is a pass."""
        del first_query  # every token has a place of its own
        now = self._cache.now
        num_decoding = now.rows_N.shape[0]
        parts = []
        if num_decoding:
            q_THC, k_TKC, v_TKC = (x[0, :, :num_decoding].transpose(0, 1) for x in (q_BHSC, k_BKTC, v_BKTC))
            parts.append(self._decode(q_THC, k_TKC, v_TKC, now=now, sinks_H=sinks_H).transpose(0, 1)[None])
        first = num_decoding
        for length, equals in groupby(now.pieces, key=lambda piece: piece.num_tokens):
            pieces = list(equals)
            last = first + len(pieces) * length
            q, k, v = (_rows(x[:, :, first:last], num_rows=len(pieces)) for x in (q_BHSC, k_BKTC, v_BKTC))
            self._store(k, v, pieces=pieces)
            parts.append(self.inner(q, k, v, sinks_H=sinks_H).transpose(0, 1).flatten(1, 2)[None])
            first = last
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def move(self, holes: Tensor, movers: Tensor, *, longest: int) -> None:
        """Copy what some slots hold to others."""
        for stored_NLKC in (self.keys_NLKC, self.values_NLKC):
            if stored_NLKC is not None:
                stored_NLKC[holes, :longest] = stored_NLKC[movers, :longest]

    def _decode(
        self, q_NHC: Tensor, k_NKC: Tensor, v_NKC: Tensor, *, now: ForwardBatch, sinks_H: Tensor | None
    ) -> Tensor:
        keys_NLKC, values_NLKC = self._stored(k_NKC, v_NKC)
        keys_NLKC.flatten(0, 1).index_copy_(0, now.rows_N, k_NKC)
        values_NLKC.flatten(0, 1).index_copy_(0, now.rows_N, v_NKC)
        num_slots = q_NHC.shape[0]
        k_NKEC, v_NKEC = (x[:num_slots, : now.longest].transpose(1, 2) for x in (keys_NLKC, values_NLKC))
        mask_NE = now.mask_NE(self.inner, dtype=q_NHC.dtype)
        return self.inner.decode(q_NHC, k_NKEC, v_NKEC, visible_BT=mask_NE, sinks_H=sinks_H)

    def _store(self, k_BKPC: Tensor, v_BKPC: Tensor, *, pieces: Sequence[PromptChunk]) -> None:
        length = k_BKPC.shape[2]
        stored = self._stored(k_BKPC[:, :, 0], v_BKPC[:, :, 0])
        for stored_NLKC, x_BKPC in zip(stored, (k_BKPC, v_BKPC), strict=True):
            for x_KPC, piece in zip(x_BKPC, pieces, strict=True):
                stored_NLKC[piece.slots, :length] = x_KPC.transpose(0, 1)

    def _stored(self, k_NKC: Tensor, v_NKC: Tensor) -> tuple[Tensor, Tensor]:
        if self.keys_NLKC is None or self.values_NLKC is None:
            # Zeros: what no query may see is multiplied by 0, and must not be NaN.
            shape = (self._cache.num_slots, self._cache.num_places)
            self.keys_NLKC, self.values_NLKC = (x.new_zeros(*shape, *x.shape[1:]) for x in (k_NKC, v_NKC))
        return self.keys_NLKC, self.values_NLKC


class KVCache:
    """What all layers of a model, or of a pipeline stage, keep of the sequences in the slots.

    Args:
        model: The core of each of its attentions is swapped for one that uses this cache.
    """

    def __init__(self, model: Decoder) -> None:
        self.num_slots = 0
        self.num_places = 0
        self.now = ForwardBatch(places_N=torch.empty(0), rows_N=torch.empty(0), longest=0)
        self._cores: list[CachedAttention] = []
        for module in model.modules():
            if isinstance(module, (Attention, LatentAttention)):
                assert isinstance(module.core, SoftmaxCore)  # noqa: S101 (nothing was put around it)
                module.core = CachedAttention(module.core, cache=self)
                self._cores.append(module.core)

    def reserve(self, num_slots: int, *, num_places: int) -> None:
        """Make room, or keep what there is if that is enough; layers allocate when they are first used."""
        if num_slots > self.num_slots or num_places > self.num_places:
            self.release()
            self.num_slots, self.num_places = num_slots, num_places

    def release(self) -> None:
        """Free the memory."""
        self.num_slots = self.num_places = 0
        for core in self._cores:
            core.keys_NLKC = core.values_NLKC = None
            core.inner.masks.made.clear()

    def move(self, holes: Tensor, movers: Tensor, *, longest: int) -> None:
        """Copy what some slots hold, at most so many tokens, to others."""
        for core in self._cores:
            core.move(holes, movers, longest=longest)


def _rows(x_BNTC: Tensor, *, num_rows: int) -> Tensor:
    """Return the one row of a pass as several, which follow each other in it."""
    return torch.unflatten(x_BNTC[0], 1, (num_rows, -1)).transpose(0, 1)
