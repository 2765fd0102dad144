"""Architectures that the native engine can't train."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import Mixer

_NAMES = {
    Mixer.COMPRESSED_ATTENTION: "compressed attention",
    Mixer.MAMBA: "Mamba-2",
    Mixer.GATED_DELTA_NET: "gated delta net",
}


def unsupported_model(model: ModelConfig) -> str | None:
    """Return why the native engine can't train an architecture, or None if it can."""
    foreign = sorted({_NAMES[layer.mixer] for layer in model.layer_counts if layer.mixer in _NAMES})
    parts = []
    if foreign:
        parts.append(f"mixes tokens by {' and '.join(foreign)}")
    others = list(deepseek_v4_parts(model, has_mixer=False))
    if others:
        parts.append(f"has {', '.join(others)}")
    if not parts:
        return None
    return (
        f"model {model.name} {' and '.join(parts)}, which framework 'torch' (native) lacks; "
        "Megatron-Bridge (on Megatron-Core) trains it: use framework='megatron_bridge', or framework='command' for a "
        "model that its library lacks"
    )


def deepseek_v4_parts(model: ModelConfig, *, has_mixer: bool = True) -> Iterator[str]:
    """Yield the parts of an architecture that came with DeepSeek-V4, as settings with their values.

    Args:
        model: Architecture.
        has_mixer: Its attention is among them.
    """
    attention = model.compressed_attention
    if has_mixer and attention is not None:
        ratios = ", ".join(map(str, sorted(set(attention.ratios))))
        yield f"compressed attention (compressed_attention.ratios of {ratios})"
    if model.hyper_connections is not None:
        yield f"hyper-connections (hyper_connections.num_streams={model.hyper_connections.num_streams})"
    moe = model.moe
    if moe is None:
        return
    if moe.router == "sqrtsoftplus":
        yield f"a router of another kind (moe.router={moe.router!r})"
    if moe.num_hash_layers:
        yield f"experts chosen by a table (moe.num_hash_layers={moe.num_hash_layers})"
    if moe.activation_limit is not None:
        yield f"clamped experts (moe.activation_limit={moe.activation_limit:g})"
