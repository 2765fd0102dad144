"""Architectures that the native engine can't train."""

from __future__ import annotations

from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.components import Mixer

_NAMES = {Mixer.MAMBA: "Mamba-2", Mixer.GATED_DELTA_NET: "gated delta net"}


def unsupported_model(model: ModelConfig) -> str | None:
    """Return why the native engine can't train an architecture, or None if it can."""
    foreign = sorted({_NAMES[layer.mixer] for layer in model.layers if layer.mixer in _NAMES})
    if not foreign:
        return None
    return (
        f"model {model.name} mixes tokens by {' and '.join(foreign)}, which framework 'torch' (native) lacks; "
        "Megatron-Bridge (on Megatron-Core) trains it: run that with framework='command'"
    )
