"""Plans of reinforcement learning that the tests start from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.rl import RL
from tests.builders import make_plan

MODEL = ModelConfig(
    name="adder",
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    ffn_hidden_size=128,
    vocab_size=16,
)
ONE = Layout(gpus=1)
APART = Layout(gpus=1, generation=GenerationLayout(gpus=1, is_colocated=False))


def rl_plan(layout: Layout = ONE, *, steps: int = 3, rl: dict[str, Any] | None = None, **changes: Any) -> Plan:
    """Four prompts with four responses each, in two updates a step."""
    sizes: dict[str, Any] = {
        "num_prompts_per_step": 4,
        "num_generations_per_prompt": 4,
        "prompt_len": 12,
        "min_prompt_len": 10,
        "max_response_len": 6,
        "max_operand": 4,
        "response_lengths": "sampled",
    }
    recipe = {"model": MODEL, "seq_len": 32, "global_batch_size": 8, "layouts": {"cpu": layout}}
    plan = make_plan(**{**recipe, "rl": RL(**{**sizes, **(rl or {})}), **changes})
    return replace(plan, warmup_steps=0, steps=steps)
