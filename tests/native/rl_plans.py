"""Plans of reinforcement learning that the tests start from, and their runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.models.architecture import ModelConfig
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.records.step import StepRecord
from tests.builders import make_plan
from tests.native.engine import Engine, plan_of

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
    """Four prompts with four responses each, in two updates a step of two micro-batches each."""
    sizes: dict[str, Any] = {
        "num_prompts_per_step": 4,
        "num_generations_per_prompt": 4,
        "prompt_len": 12,
        "min_prompt_len": 10,
        "max_response_len": 6,
        "max_operand": 4,
        "response_lengths": "sampled",
    }
    batch = {"global_batch_size": 8, "micro_batch_size": changes.get("global_batch_size", 8) // (2 * layout.dp)}
    recipe = {"model": MODEL, "seq_len": 32, "layouts": {"cpu": layout}, **batch}
    plan = make_plan(**{**recipe, "rl": RL(**{**sizes, **(rl or {})}), **changes})
    return replace(plan, warmup_steps=0, steps=steps)


def learning_plan(layout: Layout, *, is_packed: bool = False, temperature: float = 1.0, **changes: Any) -> Plan:
    """Eight samples a step, four an update: as a rule in two micro-batches, enough to accumulate gradients."""
    rl = RL(
        num_prompts_per_step=4,
        num_generations_per_prompt=2,
        prompt_len=12,
        max_response_len=20,
        learning_rate=3e-4,
        is_packed=is_packed,
        temperature=temperature,
    )
    sizes = {"global_batch_size": 4, "micro_batch_size": 1 if is_packed else max(1, 2 // layout.dp)}
    return plan_of(layout, **{"rl": rl, **sizes, **changes})


class KeptRuns:
    """Runs plans on fresh ranks, each plan once for all tests that ask for its records."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._records: dict[str, list[StepRecord]] = {}

    def records(self, plan: Plan) -> list[StepRecord]:
        key = to_json(plan)
        if key not in self._records:
            self._records[key] = self._engine.run(plan)
        return self._records[key]
