"""The rows of the draft page as perf tests: recipes that NeMo RL can run, with the draft's figures beside."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_nemoperf.frameworks.plans.nemo_rl import backend_of, plan_problems
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.recipes.recipe import Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system

FILE = Path(__file__).parents[3] / "perf_tests" / "test_nemo_rl.py"


class Asked:
    """Fixture ``perf`` that keeps the recipe."""

    def __init__(self) -> None:
        self.recipe: Recipe | None = None

    def check(self, recipe: Recipe) -> None:
        self.recipe = recipe


@pytest.fixture(scope="module")
def perf_tests() -> ModuleType:
    spec = importlib.util.spec_from_file_location("perf_test_nemo_rl", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("row", "backend", "figures"),
    [
        (0, "megatron", "1496*16*99/2048 = 1157 tokens a sample, less 1056 generated = 101 of its prompt"),
        (1, "dtensor", "1482*16*114.9/2048 = 1330 tokens a sample, less 1056 generated = 274 of its prompt"),
    ],
)
def test_a_draft_row_is_a_case_of_nemo_rl_with_its_figures_as_a_note(
    perf_tests: ModuleType, row: int, backend: str, figures: str
) -> None:
    test: Any = perf_tests.test_llama3_1_8b_on_policy
    parametrize = next(mark for mark in test.pytestmark if mark.name == "parametrize")
    perf = Asked()

    test(perf, *parametrize.args[1][row].values)

    assert perf.recipe is not None
    plan = resolve(perf.recipe, system=find_system("h100"))
    assert not list(plan_problems(plan))
    assert backend_of(plan) == backend
    assert plan.layout.total_gpus == 16
    assert plan.rl is not None
    assert (plan.rl.num_samples, plan.global_batch_size) == (2048, 512)
    (note,) = plan.notes
    assert note.startswith("DRAFT figures")
    assert note.endswith(figures)
    assert "notes" not in workload_of(plan)
