"""Architecture of a published row, and the convention that its page counts FLOPs under."""

from __future__ import annotations

from dataclasses import replace

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.flops.published import find_published_model, published_convention
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.published.row import PublishedRow


def row_model(row: PublishedRow) -> ModelConfig:
    """Return the row's model, with fewer layers for a scaled-down run.

    Raises:
        RecipeError: If it is not in the catalog, or its kinds of layers do not say which are left out.
    """
    model = find_published_model(row.model)
    if row.num_layers is None or row.num_layers == model.num_layers:
        return model
    if row.num_layers > model.num_layers:
        raise RecipeError(f"the page prints {row.num_layers} layers, and {model.name} has {model.num_layers}")
    if model.hybrid_pattern:
        raise RecipeError(
            f"the page prints {row.num_layers} of {model.num_layers} layers, and not which kinds of them are left out"
        )
    return replace(model, num_layers=row.num_layers)


def row_convention(row: PublishedRow) -> str:
    """Return the name of the convention that the row's page counts FLOPs under.

    Raises:
        RecipeError: If nothing is known about the page, or the model is not in the catalog.
    """
    task = row.task if row.task in ("sft", "lora") else "pretrain"
    return published_convention(row.source, release=row.release, printed_model=row.model, task=task)
