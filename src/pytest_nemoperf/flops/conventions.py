"""Conventions of counting FLOPs, as data in ``catalog/conventions.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Literal

from pytest_nemoperf.errors import RecipeError, did_you_mean, shown

DEFAULT_CONVENTION = "megatron-bridge"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopsConvention:
    """Terms that one source counts; published pages differ by up to 30% at equal speed.

    Attributes:
        name: Stored beside every TFLOP/s figure.
        source: Code or page the convention was read from.
        is_causal_halved: Attention scores above the diagonal are not counted.
        counts_diagonal: A halved row of scores has (s + 1) / 2 entries on average instead of s / 2.
        window: ``exact``: a windowed layer's mean context (the whole window under compressed attention);
            ``ignored``: full attention everywhere. Chunked
            windows (Llama 4) are counted as full either way: no source counts them.
        counts_mtp: Blocks and heads of multi-token prediction.
        counts_hybrid_mtp_projection: Their projections also in hybrids.
        counts_router: The routers, and the shared experts' gate.
        counts_norms: One multiply-add per element of the latent norms of MLA and the norms of multi-token prediction.
        counts_hyper_connections: The products that weigh and mix several residual streams.
        counts_small_parameters: Everything else that has parameters (norms, biases), at 6 FLOPs each.
        vocab_multiple: The vocabulary is padded to a multiple of this times tp; 1 for no padding.
        needs_silu_for_gate: Gated MLPs count as two matrices unless their activation is SiLU.
        head_dim: ``actual``, or ``hidden`` for hidden_size / num_heads in any model.
        is_mha: Keys and values are charged like the queries, for any number of key-value heads.
        num_kv_heads: Key-value heads of single models that the source gets wrong, by model name.
        is_shared_expert_single: Several shared experts count as one.
        are_dense_layers_moe: Dense layers of a mixture count as mixtures.
        mamba_width: Inner width of Mamba: ``actual``, or ``double`` for twice hidden_size.
        scan_flops: Forward FLOPs of the scan per inner channel and state.
        lora: Adapters train frozen weights: ``weights`` takes the frozen weights' gradients off the products with
            weights, ``all`` off the attention core too.
        lora_rank: Rank of adapters on every projection, whose own gradients ``all`` counts in proportion to their
            parameters; 0 counts none.
        packed_sample_len: Tokens of each sample in a packed sequence; a sample attends to itself alone, and one of
            its tokens is not counted. None for sequences of one sample.
    """

    name: str
    source: str
    is_causal_halved: bool
    counts_diagonal: bool = False
    window: Literal["exact", "ignored"] = "ignored"
    counts_mtp: bool = False
    counts_hybrid_mtp_projection: bool = False
    counts_router: bool = False
    counts_norms: bool = False
    counts_hyper_connections: bool = False
    counts_small_parameters: bool = False
    vocab_multiple: int = 1
    needs_silu_for_gate: bool = False
    head_dim: Literal["actual", "hidden"] = "actual"
    is_mha: bool = False
    num_kv_heads: Mapping[str, int] = field(default_factory=dict)
    is_shared_expert_single: bool = False
    are_dense_layers_moe: bool = False
    mamba_width: Literal["actual", "double"] = "actual"
    scan_flops: float = 7.0
    lora: Literal["weights", "all"] | None = None
    lora_rank: int = 0
    packed_sample_len: int | None = None


@cache
def flops_conventions() -> Mapping[str, FlopsConvention]:
    """Return every convention by name."""
    text = resources.files("pytest_nemoperf").joinpath("catalog", "conventions.json").read_text(encoding="utf-8")
    entries = json.loads(text)["conventions"]
    return MappingProxyType({name: FlopsConvention(name=name, **entry) for name, entry in entries.items()})


def find_convention(name: str) -> FlopsConvention:
    """Return the convention of that name.

    Raises:
        RecipeError: If there is no such convention.
    """
    conventions = flops_conventions()
    if name not in conventions:
        raise RecipeError(f"unknown FLOPs convention {shown(name)}; {did_you_mean(name, conventions)}")
    return conventions[name]
