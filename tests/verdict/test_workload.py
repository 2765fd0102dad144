from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.measure.expected_records import ExpectedRecords
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.verdict.workload import WorkloadFacts, facts_of, loop_workload
from tests.builders import make_plan

EXPECTED = ExpectedRecords(num_gpus=2, warmup_steps=2, steps=4, tokens_per_step=100)


def test_the_workload_of_a_loop_is_what_is_known_and_what_its_test_adds() -> None:
    workload = loop_workload("x", expected=EXPECTED, added={"shape": (32, 128)})

    assert workload == {
        "workload": "loop",
        "name": "x",
        "num_gpus": 2,
        "tokens_per_step": 100,
        "shape": [32, 128],
    }


def test_a_loop_whose_lengths_vary_says_so_and_has_no_tokens_of_every_step() -> None:
    workload = loop_workload("x", expected=replace(EXPECTED, has_exact_tokens=False), added=None)

    assert workload["has_varying_lengths"] is True
    assert facts_of(workload, convention=None) == WorkloadFacts(num_gpus=2)


def test_a_recipe_whose_lengths_vary_has_no_tokens_nor_flops_of_every_step() -> None:
    plan = make_plan(framework="mine", has_varying_lengths=True)

    assert facts_of(workload_of(plan), convention="megatron-bridge") == WorkloadFacts(num_gpus=2)


@pytest.mark.parametrize("key", ["workload", "name", "num_gpus", "tokens_per_step", "rl", "has_varying_lengths"])
def test_a_key_of_the_plugins_own_is_refused(key: str) -> None:
    with pytest.raises(RecipeError, match=rf"workload\['{key}'\]='mine': the plugin itself sets or reads this key"):
        loop_workload("x", expected=EXPECTED, added={key: "mine"})
