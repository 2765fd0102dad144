"""Attention core: softmax of scaled and masked scores, times values."""

# B sequences, S queries of a sequence, T keys of it (T >= S under context parallelism), H query heads, K key-value
# heads, G query heads of a key-value head, C width of a head (of queries and keys; values may have another)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Core(Protocol):
    """Callable that attention applies to queries, keys and values; context parallelism and recomputation wrap it."""

    def __call__(
        self,
        q_BHSC: Tensor,
        k_BKTC: Tensor,
        v_BKTC: Tensor,
        *,
        first_query: int = 0,
        sinks_H: Tensor | None = None,
    ) -> Tensor:
        """Return one value per query and head, as BHSC.

        Args:
            q_BHSC: Queries of the positions ``first_query ... first_query+S-1``.
            k_BKTC: Keys of the positions ``0 ... T-1``, with T >= first_query+S.
            v_BKTC: Their values.
            first_query: Position of the first query.
            sinks_H: One score per head that joins the softmax without a value.
        """


@dataclass(frozen=True, slots=True)
class Masks:
    """Attention masks shared by all layers of a model.

    Attributes:
        made: Masks by window, window kind, first query and device, each for the most queries asked for so far; fewer
            queries use its top left corner.
    """

    made: dict[tuple[object, ...], Tensor] = field(default_factory=dict)

    def mask(
        self, *, window: int | None, is_chunked: bool, first_query: int, num_queries: int, device: torch.device
    ) -> Tensor:
        """Return a boolean mask (S, T), true if the query sees the key; T ends with the last query."""
        key = (window, is_chunked, first_query, device)
        if key not in self.made or self.made[key].shape[0] < num_queries:
            keys_T = torch.arange(first_query + num_queries, device=device)
            queries_S1 = keys_T[first_query:, None]
            visible_ST = keys_T <= queries_S1
            if window is not None and is_chunked:
                visible_ST &= keys_T // window == queries_S1 // window
            elif window is not None:
                visible_ST &= keys_T > queries_S1 - window
            self.made[key] = visible_ST
        return self.made[key][:num_queries, : first_query + num_queries]


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftmaxCore:
    """Causal attention with sliding or chunked windows, softcap and sinks.

    Attributes:
        scale: Factor of the scores.
        window: Positions a query sees, its own included; None for all before it.
        is_chunked: The sequence is cut into chunks of ``window`` positions, and queries see their own chunk only.
        softcap: Bound c in c tanh(score / c); None for no bound.
        masks: Cache shared by the layers of a model.
    """

    scale: float
    window: int | None = None
    is_chunked: bool = False
    softcap: float | None = None
    masks: Masks = field(default_factory=Masks)

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
        # Keys after the last query are visible to none.
        num_keys = first_query + q_BHSC.shape[2]
        k_BKTC = k_BKTC[:, :, :num_keys]
        v_BKTC = v_BKTC[:, :, :num_keys]
        is_causal_only = self.window is None or self.window >= num_keys
        is_fused = self.softcap is None and sinks_H is None
        if is_fused and is_causal_only and first_query == 0:
            return F.scaled_dot_product_attention(
                q_BHSC,
                k_BKTC,
                v_BKTC,
                is_causal=True,
                scale=self.scale,
                enable_gqa=q_BHSC.shape[1] > k_BKTC.shape[1],
            )
        visible_ST = self._mask(q_BHSC, first_query=first_query)
        return self.masked(q_BHSC, k_BKTC, v_BKTC, visible=visible_ST, sinks_H=sinks_H)

    def masked(
        self, q_BHSC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, *, visible: Tensor, sinks_H: Tensor | None
    ) -> Tensor:
        """Return one value per query and head (BHSC), of the keys that a mask (S, T) shows."""
        if self.softcap is not None or sinks_H is not None:
            return self._composed(q_BHSC, k_BKTC, v_BKTC, visible=visible, sinks_H=sinks_H)
        if q_BHSC.is_cuda:
            # CUDA's fused kernels that take a mask don't group queries.
            group_size = q_BHSC.shape[1] // k_BKTC.shape[1]
            k_BKTC = k_BKTC.repeat_interleave(group_size, 1)
            v_BKTC = v_BKTC.repeat_interleave(group_size, 1)
        return F.scaled_dot_product_attention(
            q_BHSC,
            k_BKTC,
            v_BKTC,
            attn_mask=visible,
            scale=self.scale,
            enable_gqa=q_BHSC.shape[1] > k_BKTC.shape[1],
        )

    def decode(
        self, q_BHC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, *, visible_BT: Tensor, sinks_H: Tensor | None
    ) -> Tensor:
        """Return one value per sequence and head (BHC), for one query of each sequence.

        Args:
            q_BHC: Queries.
            k_BKTC: Keys.
            v_BKTC: Values.
            visible_BT: Additive mask: 0 for a visible key, -inf for the others.
            sinks_H: See ``Core``.
        """
        if self.softcap is not None or sinks_H is not None:
            visible_B11T = (visible_BT == 0)[:, None, None]
            return self._composed(q_BHC[:, :, None], k_BKTC, v_BKTC, visible=visible_B11T, sinks_H=sinks_H)[:, :, 0]
        # A group's queries see the same keys, so they are passed as the queries of one head.
        q_BKGC = torch.unflatten(q_BHC, 1, (k_BKTC.shape[1], -1))
        mask_BKGT = visible_BT[:, None, None].expand(*q_BKGC.shape[:3], -1)
        out_BKGC = F.scaled_dot_product_attention(q_BKGC, k_BKTC, v_BKTC, attn_mask=mask_BKGT, scale=self.scale)
        return out_BKGC.flatten(1, 2)

    def _mask(self, q_BHSC: Tensor, *, first_query: int) -> Tensor:
        return self.masks.mask(
            window=self.window,
            is_chunked=self.is_chunked,
            first_query=first_query,
            num_queries=q_BHSC.shape[2],
            device=q_BHSC.device,
        )

    def _composed(
        self, q_BHSC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, *, visible: Tensor, sinks_H: Tensor | None
    ) -> Tensor:
        """Attend with softcap or sinks, which no fused kernel has; the softmax is in fp32."""
        num_kv_heads = k_BKTC.shape[1]
        num_queries = q_BHSC.shape[2]
        # A group's queries are rows of one product, so that keys and values are not repeated.
        q_BKRC = torch.unflatten(q_BHSC, 1, (num_kv_heads, -1)).flatten(2, 3)
        scores_BKRT = q_BKRC @ k_BKTC.transpose(2, 3)
        scores_BHST = torch.unflatten(scores_BKRT, 2, (-1, num_queries)).flatten(1, 2).float()
        scores_BHST = scores_BHST * self.scale
        if self.softcap is not None:
            scores_BHST = torch.tanh(scores_BHST / self.softcap) * self.softcap
        scores_BHST = scores_BHST.masked_fill(~visible, -torch.inf)
        if sinks_H is not None:
            sinks_BHS1 = sinks_H.float()[:, None, None].expand(*scores_BHST.shape[:-1], 1)
            scores_BHST = torch.cat([scores_BHST, sinks_BHS1], dim=-1)
        probs_BHST = scores_BHST.softmax(-1)[..., : k_BKTC.shape[2]].to(v_BKTC.dtype)
        out_BKRC = torch.unflatten(probs_BHST, 1, (num_kv_heads, -1)).flatten(2, 3) @ v_BKTC
        return torch.unflatten(out_BKRC, 2, (-1, num_queries)).flatten(1, 2)
