"""Our side of vLLM's engine, without vLLM."""

from __future__ import annotations

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.native.rl.generate.vllm_engine import Engine
from pytest_nemoperf.pricing.generation_memory import generation_memory
from tests.native.rl_plans import rl_plan


def test_the_engine_has_as_many_slots_as_the_replica_with_most_prompts_has_samples() -> None:
    layout = Layout(gpus=2, dp_shard=2)
    plan = rl_plan(layout, global_batch_size=12, rl={"generator": "vllm", "num_prompts_per_step": 3})

    engine = Engine(plan)

    memory = generation_memory(plan)
    assert memory is not None
    assert engine.num_slots == memory.num_slots == 2 * 4
