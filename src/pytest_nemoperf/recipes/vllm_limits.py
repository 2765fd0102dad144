"""Limits of vLLM as generator, checked before a launch and again in the ranks."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_nemoperf.layouts.layout import GenerationLayout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.models.huggingface.export import unexportable_model
from pytest_nemoperf.recipes.rl import RL

_MIN_TEMPERATURE = 0.01
"""vLLM replaces lower ones by this one, and samples greedily near 0."""


def vllm_problems(model: ModelConfig, *, rl: RL, generation: GenerationLayout) -> Iterator[str]:
    """Yield obstacles to generator='vllm', each with a remedy.

    Args:
        model: Architecture.
        rl: Sampling settings.
        generation: Parallel degrees.
    """
    if generation.tp * generation.pp > 1:
        yield (
            f"generator='vllm' runs one engine a rank, and the generation layout has tp={generation.tp}, "
            f"pp={generation.pp}; use tp=1 and pp=1, or generator='native'"
        )
    if rl.temperature < _MIN_TEMPERATURE:
        yield f"generator='vllm' samples at temperatures from {_MIN_TEMPERATURE:g} on, not {rl.temperature:g}; raise it"
    if rl.temperature != 1 and (rl.top_p < 1 or rl.top_k is not None):
        yield (
            f"generator='vllm' tells log-probabilities before the temperature ({rl.temperature:g}) or after the cut "
            f"(top_p={rl.top_p:g}, top_k={rl.top_k}), and training needs those between; use temperature=1, or no cut, "
            "or generator='native'"
        )
    problem = unexportable_model(model)
    if model.moe is not None and problem is None:
        problem = "weights of experts are not handed over"
    if problem is not None:
        yield f"generator='vllm' can't load the model: {problem}; use generator='native'"
