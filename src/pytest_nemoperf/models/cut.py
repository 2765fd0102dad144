"""Models cut to fewer layers: the usual proxy for one that does not fit on the GPUs at hand.

Widths, heads, experts and vocabulary stay, and with them the shapes of all kernels. The layers kept are the first ones,
so that a period of windows, full attention or Mamba layers begins as in the full model.
"""

from __future__ import annotations

from dataclasses import replace

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.models.architecture import ModelConfig


def cut_layers(model: ModelConfig, *, num_layers: int) -> ModelConfig:
    """Return a model's first layers as a model named ``<name>-<N>layers``.

    Of the dense layers at the beginning of a mixture one is kept, or DeepSeek-V3 cut to 4 layers, whose first 3 of 61
    are dense, would be three quarters dense; likewise one layer whose experts a table gives. Multi-token prediction
    stays: its blocks follow the last layer.

    Args:
        model: Full architecture.
        num_layers: Layers to keep.

    Raises:
        RecipeError: If the model has no more layers, or one of its kinds of layers is not among those kept.
    """
    if num_layers >= model.num_layers:
        raise RecipeError(
            f"num_layers={num_layers} cuts nothing off model {model.name}, which has {model.num_layers}; "
            "use fewer, or leave num_layers out"
        )
    if not _has_all_kinds(model, num_layers=num_layers):
        fewest = num_layers + 1
        while not _has_all_kinds(model, num_layers=fewest):
            fewest += 1
        raise RecipeError(
            f"num_layers={num_layers} of model {model.name} has not every kind of its layers, as of mixtures, windows "
            f"or full attention; its first {fewest} have: use num_layers={fewest} or more"
        )
    return _first_layers(model, num_layers=num_layers)


def _has_all_kinds(model: ModelConfig, *, num_layers: int) -> bool:
    """Return True if the first layers are of every kind that the model has."""
    if model.moe is not None and not model.hybrid_pattern and num_layers <= min(model.moe.num_dense_layers, 1):
        return False
    return model.layer_counts.keys() == _first_layers(model, num_layers=num_layers).layer_counts.keys()


def _first_layers(model: ModelConfig, *, num_layers: int) -> ModelConfig:
    """Return the first layers; there are more than those that are dense, or chosen by a table."""
    moe = model.moe
    if moe is not None and not model.hybrid_pattern:
        moe = replace(moe, num_dense_layers=min(moe.num_dense_layers, 1), num_hash_layers=min(moe.num_hash_layers, 1))
    attention = model.compressed_attention
    if attention is not None:
        attention = replace(attention, ratios=attention.ratios[:num_layers])
    return replace(
        model,
        name=f"{model.name}-{num_layers}layers",
        num_layers=num_layers,
        hybrid_pattern=model.hybrid_pattern[:num_layers],
        moe=moe,
        compressed_attention=attention,
    )
