"""A dense decoder with its loss: what one process computes; parallelism is added from outside.

Weights that share an input are one matrix, so that a block is four matrix products: rows of ``qkv`` are
all query heads, then all key heads, then all value heads; rows of ``gate_up`` are the gate, then the up
projection. Tokens of a micro-batch are one dimension, because all but attention works token by token.
"""

# B sequences of a micro-batch, S tokens of a sequence, T = B*S tokens (this rank's part between blocks under
# sequence parallelism), D hidden, H query heads, K key-value heads, N heads of a fused tensor, C width of a
# head, F width of the MLP, V vocabulary (H, K, N, F and V: this rank's part under tensor parallelism)

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.native.operators import cross_entropy_sum, rms_norm, split_heads, swiglu


class RMSNorm(nn.Module):
    """Root mean square norm over the last dimension."""

    def __init__(self, size: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, x_TD: Tensor) -> Tensor:
        """Return the input scaled to unit root mean square, times the weight."""
        return rms_norm(x_TD, self.weight.to(x_TD.dtype), eps=self.eps)


class Linear(nn.Module):
    """Matrix product without bias; an fp32 master weight is cast to the input's type at its use."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))

    def forward(self, x: Tensor) -> Tensor:
        """Return the product over the last dimension."""
        return F.linear(x, self.weight.to(x.dtype))


class Embedding(nn.Module):
    """Table lookup; tensor parallelism swaps ``lookup`` for one that knows which rows are here."""

    def __init__(self, num_rows: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_rows, size))
        self.lookup: Callable[[Tensor, Tensor], Tensor] = F.embedding

    def forward(self, tokens_T: Tensor) -> Tensor:
        """Return one row of the table for each token."""
        return self.lookup(tokens_T, self.weight)


def causal_attention(q_BHSC: Tensor, k_BKTC: Tensor, v_BKTC: Tensor, *, first_query: int = 0) -> Tensor:
    """Attend with the queries from ``first_query`` on to the keys up to each."""
    mask_ST = None
    if first_query:
        mask_ST = torch.ones(q_BHSC.shape[2], k_BKTC.shape[2], dtype=torch.bool, device=q_BHSC.device).tril(first_query)
    return F.scaled_dot_product_attention(
        q_BHSC, k_BKTC, v_BKTC, attn_mask=mask_ST, is_causal=mask_ST is None, enable_gqa=True
    )


class Attention(nn.Module):
    """Causal self-attention with rotary positions; each key-value head serves a group of query heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.group_size = config.num_heads // config.num_kv_heads
        num_fused_heads = config.num_heads + 2 * config.num_kv_heads
        self.qkv = Linear(config.hidden_size, num_fused_heads * config.head_dim)
        self.out = Linear(config.num_heads * config.head_dim, config.hidden_size)
        self.core: Callable[..., Tensor] = causal_attention

    def forward(self, x_TD: Tensor, cos_SC: Tensor, sin_SC: Tensor) -> Tensor:
        """Return what attention adds to the residual stream; T is whole sequences of S tokens."""
        qkv_BSNC = self.qkv(x_TD).unflatten(-1, (-1, self.head_dim)).unflatten(0, (-1, cos_SC.shape[0]))
        num_kv = qkv_BSNC.shape[2] // (self.group_size + 2)  # heads of this rank, whatever tp is
        q_BSHC, k_BSKC, v_BSKC = split_heads(qkv_BSNC, num_kv_heads=num_kv, cos_SC=cos_SC, sin_SC=sin_SC)
        out_BHSC = self.core(q_BSHC.transpose(1, 2), k_BSKC.transpose(1, 2), v_BSKC.transpose(1, 2))
        out_TD: Tensor = self.out(out_BHSC.transpose(1, 2).flatten(2).flatten(0, 1))
        return out_TD


class MLP(nn.Module):
    """SwiGLU: ``down(silu(gate(x)) * up(x))``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_up = Linear(config.hidden_size, 2 * config.ffn_hidden_size)
        self.down = Linear(config.ffn_hidden_size, config.hidden_size)

    def forward(self, x_TD: Tensor) -> Tensor:
        """Return what the MLP adds to the residual stream."""
        out_TD: Tensor = self.down(swiglu(self.gate_up(x_TD)))
        return out_TD


class Block(nn.Module):
    """One decoder layer, norms before the sub-layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.mlp = MLP(config)

    def forward(self, x_TD: Tensor, cos_SC: Tensor, sin_SC: Tensor) -> Tensor:
        """Return the residual stream after this layer."""
        x_TD = x_TD + self.attention(self.attention_norm(x_TD), cos_SC, sin_SC)
        out_TD: Tensor = x_TD + self.mlp(self.mlp_norm(x_TD))
        return out_TD


class LossHead(nn.Module):
    """Logits and their loss; tensor parallelism swaps ``cross_entropy`` for one over vocabulary shards."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.weight = (
            None if config.tied_embeddings else nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        )
        self.cross_entropy: Callable[[Tensor, Tensor], Tensor] = cross_entropy_sum

    def forward(self, x_TD: Tensor, labels_T: Tensor, tied_weight_VD: Tensor | None) -> Tensor:
        """Return the summed loss; the embedding table is used where the head has no weight of its own."""
        weight_VD = tied_weight_VD if self.weight is None else self.weight
        assert weight_VD is not None  # noqa: S101 (one of them is there)
        return self.cross_entropy(F.linear(x_TD, weight_VD.to(x_TD.dtype)), labels_T)


class Decoder(nn.Module):
    """Embedding, blocks, norm, head and loss, or the part of them that one pipeline stage has.

    Args:
        config: Architecture.
        seq_len: Tokens per sequence (S).
        dtype: Number format of activations and matrix products; parameters are fp32 master weights.
        layers: Which of the model's layers; None for all. Blocks are named by their number in the whole model.
        is_first: Has the embedding.
        is_last: Has the norm, the head and the loss, and the embedding where the head is tied to it.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        seq_len: int,
        dtype: torch.dtype,
        layers: range | None = None,
        is_first: bool = True,
        is_last: bool = True,
    ) -> None:
        super().__init__()
        self.config = config
        self.seq_len = seq_len
        self.dtype = dtype
        self.is_first, self.is_last = is_first, is_last
        self.embedding: Embedding | None = None
        if is_first or (is_last and config.tied_embeddings):
            self.embedding = Embedding(config.vocab_size, config.hidden_size)
        layers = range(config.num_layers) if layers is None else layers
        self.blocks = nn.ModuleDict({str(index): Block(config) for index in layers})
        self.norm = RMSNorm(config.hidden_size, eps=config.norm_eps) if is_last else None
        self.head = LossHead(config) if is_last else None
        self.positions_S = torch.arange(seq_len, device="cpu")
        # Plain tensors: DDP would broadcast buffers in every step.
        self.cos_SC = torch.empty(seq_len, config.head_dim // 2, dtype=dtype)
        self.sin_SC = torch.empty(seq_len, config.head_dim // 2, dtype=dtype)

    def forward(self, x: Tensor, labels_BS: Tensor) -> Tensor:
        """Return the residual stream after this stage, or the loss summed over the micro-batch, a scalar in fp32.

        Args:
            x: Tokens (B, S) on the first stage, the residual stream (T, D) of the stage before on others.
            labels_BS: Next tokens; used by the last stage.
        """
        if self.is_first:
            assert self.embedding is not None  # noqa: S101 (the first stage has it)
            x = self.embedding(x.flatten()).to(self.dtype)
        for block in self.blocks.values():
            x = block(x, self.cos_SC, self.sin_SC)
        if self.norm is None or self.head is None:
            return x
        tied_weight_VD = None if self.embedding is None else self.embedding.weight
        loss: Tensor = self.head(self.norm(x), labels_BS.flatten(), tied_weight_VD)
        return loss
