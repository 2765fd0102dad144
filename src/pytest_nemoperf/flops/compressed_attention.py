"""Multiply-adds of compressed attention (DeepSeek-V4), as Megatron-Bridge's flop_utils.py counts them.

Under a convention that halves causal attention, a query attends to the whole window, to half of the positions that
compress the sequence, or, of those an indexer chooses from, to their mean number: k (1 - k r / 2s) for k of ratio r.
An indexer scores every position, later ones too. Otherwise nothing is skipped: a query attends to every token and to
every compressed position. Norms of heads, rotations and softmax are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator

from pytest_nemoperf.flops.conventions import FlopsConvention
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import CompressedAttention, Layer

CORE = "attention core"
_PROJECTIONS_OF_A_COMPRESSOR = 2  # keys, and gates that weigh the tokens of a position


def compressed_attention_macs(
    model: ModelConfig, layer: Layer, *, window_context: float, seq_len: int, convention: FlopsConvention
) -> Iterator[tuple[str, float]]:
    """Yield name and forward multiply-adds per token of each term of a layer.

    Args:
        model: Architecture with compressed attention.
        layer: The layer.
        window_context: Tokens a query attends to beside compressed positions, under a convention that ignores windows.
        seq_len: Tokens of a sequence, or of a sample in it.
        convention: Selects the counted terms.
    """
    attention = model.compressed_attention
    assert attention is not None  # noqa: S101 (no layer has one without it)
    hidden = model.hidden_size
    width = model.head_dim
    queries = model.num_heads * width
    latents = attention.num_output_groups * attention.o_lora_rank
    projections = attention.q_lora_rank * (hidden + queries) + hidden * width
    yield "attention projections", projections + queries * attention.o_lora_rank + latents * hidden
    context = window_context
    if convention.window == "exact" and layer.window is not None:
        context = min(layer.window, seq_len)
    if layer.compress_ratio:
        context += _compressed_context(attention, layer.compress_ratio, seq_len=seq_len, convention=convention)
        yield from _compression(model, attention, ratio=layer.compress_ratio, seq_len=seq_len)
    yield CORE, context * queries * 2
    if convention.counts_norms:
        yield "norms", attention.q_lora_rank + width


def _compressed_context(
    attention: CompressedAttention, ratio: int, *, seq_len: int, convention: FlopsConvention
) -> float:
    """Return the convention's mean number of compressed positions a query attends to."""
    if not convention.is_causal_halved:
        return seq_len / ratio
    if not attention.has_indexer(ratio):
        return seq_len / ratio / 2
    chosen = min(attention.index_topk, seq_len // ratio)
    return chosen * (1 - chosen * ratio / (2 * seq_len))


def _compression(
    model: ModelConfig, attention: CompressedAttention, *, ratio: int, seq_len: int
) -> Iterator[tuple[str, float]]:
    """Yield the terms of making compressed positions and of choosing among them."""
    hidden = model.hidden_size
    if not attention.has_indexer(ratio):
        yield "compressor", _PROJECTIONS_OF_A_COMPRESSOR * hidden * model.head_dim
        return
    yield "compressor", _PROJECTIONS_OF_A_COMPRESSOR * hidden * 2 * model.head_dim  # pieces overlap: two heads each
    heads = attention.index_num_heads
    width = attention.index_head_dim
    projections = _PROJECTIONS_OF_A_COMPRESSOR * hidden * 2 * width + hidden * heads
    yield "indexer", projections + heads * width * (attention.q_lora_rank + seq_len / ratio)
