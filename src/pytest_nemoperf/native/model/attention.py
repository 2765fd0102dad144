"""Self-attention with grouped queries (GQA), with the families' norms, gates, sinks and query scales.

Queries, keys and values are one matrix: rows of ``qkv`` are all query heads (each followed by its gate, if heads
are gated), then all key heads, then all value heads.
"""

# B sequences of a micro-batch, S tokens of a sequence, T = B*S tokens, D hidden, H query heads, K key-value heads,
# N heads of a fused tensor, C width of a head, R rotated pairs of a head (H, K and N: this rank's under tensor
# parallelism)

from __future__ import annotations

import math
import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import Layer
from pytest_nemoperf.native.fast_paths import WINDOW_BANDS, enabled_fast_paths
from pytest_nemoperf.native.model.attention_core import Core, Masks, SoftmaxCore
from pytest_nemoperf.native.model.layers import Linear, OutputLinear, RMSNorm
from pytest_nemoperf.native.model.operators import rotate, split_heads
from pytest_nemoperf.native.model.rope import Positions, score_factor
from pytest_nemoperf.native.model.window_bands import BandedCore


def make_core(config: ModelConfig, layer: Layer, *, query_size: int, masks: Masks) -> Core:
    """Return the core of one layer's attention; ``query_size`` is the width of a query head."""
    scale = config.query_scale
    if scale is None:
        scale = 1 / math.sqrt(query_size)
    kind = BandedCore if WINDOW_BANDS in enabled_fast_paths(os.environ) else SoftmaxCore
    return kind(
        scale=scale * score_factor(config.rope_scaling),
        window=layer.window,
        is_chunked=layer.is_chunked,
        softcap=config.attention_softcap,
        masks=masks,
    )


def attend(
    core: Core,
    q_BSHC: Tensor,
    k_BSKC: Tensor,
    v_BSKC: Tensor,
    *,
    lens: tuple[int, ...] = (),
    sinks_H: Tensor | None = None,
) -> Tensor:
    """Return one value per query and head, as BSHC; samples of a packed row do not attend to each other.

    Args:
        core: Attention within one sample.
        q_BSHC: Queries.
        k_BSKC: Keys.
        v_BSKC: Values.
        lens: Tokens of each sample of a packed row; empty if a row is one sample.
        sinks_H: See ``Core``.
    """
    q_BHSC, k_BKSC, v_BKSC = q_BSHC.transpose(1, 2), k_BSKC.transpose(1, 2), v_BSKC.transpose(1, 2)
    if len(lens) <= 1:
        return core(q_BHSC, k_BKSC, v_BKSC, sinks_H=sinks_H).transpose(1, 2)
    outs = []
    start = 0
    for length in lens:
        end = start + length
        sample = [x[:, :, start:end] for x in (q_BHSC, k_BKSC, v_BKSC)]
        outs.append(core(*sample, sinks_H=sinks_H))
        start = end
    return torch.cat(outs, dim=2).transpose(1, 2)


class Attention(nn.Module):
    """Causal self-attention; each key-value head serves a group of query heads.

    ``core`` maps queries, keys and values to one value per query; context parallelism replaces it.
    """

    def __init__(self, config: ModelConfig, layer: Layer, *, masks: Masks) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.group_size = config.num_heads // config.num_kv_heads
        self.is_gated = config.attention_gate
        self.temperature = None if layer.has_rope else config.query_temperature
        self.has_l2_norm = config.qk_norm == "l2" and layer.has_rope
        self.norm_eps = config.norm_eps
        num_query_rows = config.num_heads * config.head_dim
        if self.is_gated:
            num_query_rows *= 2
        num_rows = num_query_rows + 2 * config.num_kv_heads * config.head_dim
        self.qkv = Linear(config.hidden_size, num_rows, has_bias=config.qkv_bias)
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if config.qk_norm == "rms":
            self.q_norm = RMSNorm(config.head_dim, eps=config.norm_eps)
            self.k_norm = RMSNorm(config.head_dim, eps=config.norm_eps)
        self.sinks = nn.Parameter(torch.empty(config.num_heads)) if config.attention_sinks else None
        self.out = OutputLinear(config.num_heads * config.head_dim, config.hidden_size, has_bias=config.out_bias)
        self.core = make_core(config, layer, query_size=config.head_dim, masks=masks)

    def forward(self, x_TD: Tensor, positions: Positions) -> Tensor:
        """Return the attention output (T, D) without the output bias; T is whole sequences."""
        qkv_BSNC = self.qkv(x_TD).unflatten(-1, (-1, self.head_dim)).unflatten(0, (-1, positions.index_S.shape[0]))
        q_BSHC, gate_BSHC, k_BSKC, v_BSKC = self._split(qkv_BSNC, positions)
        out_BSHC = attend(self.core, q_BSHC, k_BSKC, v_BSKC, lens=positions.lens, sinks_H=self.sinks)
        if gate_BSHC is not None:
            out_BSHC = out_BSHC * torch.sigmoid(gate_BSHC)
        out_TD: Tensor = self.out(out_BSHC.flatten(2).flatten(0, 1))
        return out_TD

    def _split(self, qkv_BSNC: Tensor, positions: Positions) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Return queries, their gates, keys and values, with norms and positions applied."""
        rows_per_group = self.group_size
        if self.is_gated:
            rows_per_group *= 2
        # Derived from the tensor, as tp changes it: a rank with a copy of a head has only some of its query heads.
        num_kv = max(1, qkv_BSNC.shape[2] // (rows_per_group + 2))
        if not self.is_gated and self.q_norm is None and positions.angles is not None:
            q_BSHC, k_BSKC, v_BSKC = split_heads(qkv_BSNC, num_kv_heads=num_kv, angles=positions.angles)
            return self._l2_norm(q_BSHC), None, self._l2_norm(k_BSKC), v_BSKC
        q_BSHC, k_BSKC, v_BSKC = torch.split(qkv_BSNC, [qkv_BSNC.shape[2] - 2 * num_kv, num_kv, num_kv], dim=2)
        gate_BSHC = None
        if self.is_gated:
            q_BSHC, gate_BSHC = torch.unflatten(q_BSHC, 2, (-1, 2)).unbind(3)
        if self.q_norm is not None and self.k_norm is not None:
            q_BSHC = self.q_norm(q_BSHC)
            k_BSKC = self.k_norm(k_BSKC)
        if positions.angles is not None:
            q_BSHC = self._l2_norm(rotate(q_BSHC, positions.angles))
            k_BSKC = self._l2_norm(rotate(k_BSKC, positions.angles))
        elif self.temperature is not None:
            scale_S = _query_scale(positions.index_S, self.temperature)
            q_BSHC = q_BSHC * scale_S.to(q_BSHC.dtype)[:, None, None]
        return q_BSHC, gate_BSHC, k_BSKC, v_BSKC

    def _l2_norm(self, x_BSNC: Tensor) -> Tensor:
        if not self.has_l2_norm:
            return x_BSNC
        return F.rms_norm(x_BSNC, (self.head_dim,), None, self.norm_eps)


def _query_scale(index_S: Tensor, temperature: tuple[float, float]) -> Tensor:
    """Return the query scale of each position, 1 + a ln(1 + floor((position + 1) / b)), shape (S,).

    References:
        Nakanishi 2025, https://arxiv.org/abs/2501.19399, in the form of Llama 4's release.
    """
    scale, positions_per_step = temperature
    return 1 + scale * torch.log1p(((index_S + 1) / positions_per_step).floor())
