"""Multi-head latent attention (MLA): keys and values of all heads are projected from one latent vector per token.

References:
    DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1
"""

# B sequences of a micro-batch, S tokens of a sequence, T = B*S tokens, D hidden, H heads (this rank's under tensor
# parallelism), C width of a head or of its part, L width of a latent vector

from __future__ import annotations

import torch
from torch import Tensor, nn

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import Layer
from pytest_nemoperf.native.model.attention import attend, make_core
from pytest_nemoperf.native.model.attention_core import Masks
from pytest_nemoperf.native.model.layers import Linear, OutputLinear, RMSNorm
from pytest_nemoperf.native.model.operators import rotate
from pytest_nemoperf.native.model.rope import Positions

# DeepSeek's releases use this for the latents' norms, independent of the residual stream's eps.
_LATENT_EPS = 1e-6


class LatentAttention(nn.Module):
    """Causal latent attention; a head's queries and keys have a part without positions and a rotated part.

    Rows of ``q`` (or ``q_up``) are, head by head, the part without positions, then the rotated one; rows of
    ``kv_up`` the key, then the value; rows of ``kv_down`` the latent, then the rotated key that all heads share.
    """

    def __init__(self, config: ModelConfig, layer: Layer, *, masks: Masks) -> None:
        super().__init__()
        mla = config.mla
        assert mla is not None  # noqa: S101 (the caller checked it)
        hidden = config.hidden_size
        self.mla = mla
        self.query_size = mla.qk_nope_head_dim + mla.qk_rope_head_dim
        num_rows = config.num_heads * self.query_size
        self.q = Linear(hidden, num_rows) if mla.q_lora_rank is None else None
        if mla.q_lora_rank is not None:
            self.q_down = Linear(hidden, mla.q_lora_rank)
            self.q_down_norm = RMSNorm(mla.q_lora_rank, eps=_LATENT_EPS)
            self.q_up = Linear(mla.q_lora_rank, num_rows)
        self.kv_down = Linear(hidden, mla.kv_lora_rank + mla.qk_rope_head_dim)
        self.kv_down_norm = RMSNorm(mla.kv_lora_rank, eps=_LATENT_EPS)
        self.kv_up = Linear(mla.kv_lora_rank, config.num_heads * (mla.qk_nope_head_dim + mla.v_head_dim))
        self.out = OutputLinear(config.num_heads * mla.v_head_dim, hidden, has_bias=config.out_bias)
        self.core = make_core(config, layer, query_size=self.query_size, masks=masks)

    def forward(self, x_TD: Tensor, positions: Positions) -> Tensor:
        """Return the attention output (T, D) without the output bias; T is whole sequences."""
        mla = self.mla
        seq_len = positions.index_S.shape[0]
        if self.q is not None:
            q_TL = self.q(x_TD)
        else:
            latent_TL = self.q_down_norm(self.q_down(x_TD))
            q_TL = self.q_up(latent_TL)
        q_BSHC = q_TL.unflatten(-1, (-1, self.query_size)).unflatten(0, (-1, seq_len))
        kv_TL, k_rope_TC = self.kv_down(x_TD).split([mla.kv_lora_rank, mla.qk_rope_head_dim], dim=-1)
        kv_TL = self.kv_up(self.kv_down_norm(kv_TL))
        kv_BSHC = kv_TL.unflatten(-1, (-1, mla.qk_nope_head_dim + mla.v_head_dim)).unflatten(0, (-1, seq_len))
        k_BSHC, v_BSHC = kv_BSHC.split([mla.qk_nope_head_dim, mla.v_head_dim], dim=-1)
        k_rope_BS1C = k_rope_TC.unflatten(0, (-1, seq_len))[:, :, None]
        if positions.angles is not None:
            q_nope_BSHC, q_rope_BSHC = torch.split(q_BSHC, [mla.qk_nope_head_dim, mla.qk_rope_head_dim], dim=-1)
            q_BSHC = torch.cat([q_nope_BSHC, rotate(q_rope_BSHC, positions.angles)], dim=-1)
            k_rope_BS1C = rotate(k_rope_BS1C, positions.angles)
        k_BSHC = torch.cat([k_BSHC, k_rope_BS1C.expand(-1, -1, k_BSHC.shape[2], -1)], dim=-1)
        out_BSHC = attend(self.core, q_BSHC, k_BSHC, v_BSHC, lens=positions.lens)
        out_TD: Tensor = self.out(out_BSHC.flatten(2).flatten(0, 1))
        return out_TD
