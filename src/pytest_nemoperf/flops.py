"""Model FLOPs per token, under a named convention that travels with every number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from pytest_nemoperf.architecture import ModelConfig
from pytest_nemoperf.errors import RecipeError, did_you_mean

_FORWARD_AND_BACKWARD = 3  # forward, gradient of the input, gradient of the weight
_FLOPS_PER_MAC = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FlopsConvention:
    """What one source counts; published pages differ by up to 30% at equal speed.

    Attributes:
        name: Stored beside every TFLOP/s figure.
        is_causal_halved: Attention scores above the diagonal are not counted.
        source: Code the convention was read from.
    """

    name: str
    is_causal_halved: bool
    source: str


CONVENTIONS: Mapping[str, FlopsConvention] = MappingProxyType(
    {
        convention.name: convention
        for convention in (
            FlopsConvention(
                name="megatron-bridge",
                is_causal_halved=True,
                source="NVIDIA-NeMo/Megatron-Bridge src/megatron/bridge/training/utils/flop_utils.py, 2026-06 on",
            ),
            FlopsConvention(
                name="full-attention",
                is_causal_halved=False,
                source="Narayanan et al. 2021, section 5.1, https://arxiv.org/abs/2104.04473",
            ),
        )
    }
)
DEFAULT_CONVENTION = "megatron-bridge"


def find_convention(name: str) -> FlopsConvention:
    """Return the convention of that name.

    Raises:
        RecipeError: If there is no such convention.
    """
    if name not in CONVENTIONS:
        raise RecipeError(f"unknown FLOPs convention {name!r}; {did_you_mean(name, CONVENTIONS)}")
    return CONVENTIONS[name]


def num_flops_per_token(model: ModelConfig, *, seq_len: int, convention: FlopsConvention) -> float:
    """Return model FLOPs per trained token, forward plus backward.

    Two FLOPs per multiply-add; activation recomputation, the embedding
    lookup, norms, RoPE and softmax are not counted.

    Args:
        model: Architecture.
        seq_len: Tokens per sequence.
        convention: What is counted, e.g. whether causal attention is halved.

    Returns:
        FLOPs (not TFLOPs) per token.

    Raises:
        RecipeError: If seq_len is not positive.

    References:
        Narayanan et al. 2021, section 5.1, https://arxiv.org/abs/2104.04473
    """
    if seq_len < 1:
        raise RecipeError(f"seq_len={seq_len} must be >= 1")
    projections = model.hidden_size * model.head_dim * 2 * (model.num_heads + model.num_kv_heads)
    mean_context = seq_len / 2 if convention.is_causal_halved else seq_len
    scores_and_values = 2 * mean_context * model.num_heads * model.head_dim
    mlp = 3 * model.hidden_size * model.ffn_hidden_size
    head = model.hidden_size * model.vocab_size
    macs = model.num_layers * (projections + scores_and_values + mlp) + head
    return float(_FORWARD_AND_BACKWARD * _FLOPS_PER_MAC * macs)
