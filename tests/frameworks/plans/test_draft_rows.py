"""The rows of the draft page as perf tests: recipes that NeMo RL can run, with the draft's figures beside."""

from __future__ import annotations

import pytest

from pytest_nemoperf import published_recipes
from pytest_nemoperf.frameworks.plans.nemo_rl import backend_of, plan_problems
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system


@pytest.mark.parametrize(
    ("row", "backend", "figures"),
    [
        ("rl095", "megatron", "1496 tokens/s/GPU x 16 GPUs x 99 s / 2048 samples are 1157 tokens a sample, 101 of"),
        ("rl096", "dtensor", "1482 tokens/s/GPU x 16 GPUs x 114.9 s / 2048 samples are 1330 tokens a sample, 274 of"),
    ],
)
def test_a_draft_row_is_a_case_of_nemo_rl_with_its_figures_as_a_note(row: str, backend: str, figures: str) -> None:
    recipe = published_recipes("h100")[f"llama3.1-8b-h100-v0.4-bf16-{row}"]

    plan = resolve(recipe, system=find_system("h100"))

    assert not list(plan_problems(plan))
    assert backend_of(plan) == backend
    assert plan.layout.total_gpus == 16
    assert plan.rl is not None
    assert (plan.rl.num_samples, plan.global_batch_size) == (2048, 512)
    assert plan.notes[0].startswith("DRAFT figures")
    assert figures in plan.notes[0]
    assert "notes" not in workload_of(plan)
