from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import GenerationLayout, Layout
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.machine_key import key_of_case, num_gpus_of
from tests.builders import MACHINE, make_plan, make_rl_plan

CARD: Mapping[str, str | int] = {"device": "Test GPU", "memory_gib": 80}
HOST_OF_8: Mapping[str, str | int] = {**CARD, "gpus": 8, "topology": "NV18"}


@pytest.mark.parametrize(
    ("num_gpus", "kept"),
    [
        pytest.param(1, {}, id="one GPU has no links"),
        pytest.param(2, {"topology": "NV18"}, id="two have"),
        pytest.param(8, {"topology": "NV18"}, id="a whole host"),
        pytest.param(16, {"topology": "NV18", "gpus": 8}, id="two hosts of eight are not four of four"),
    ],
)
def test_a_key_holds_what_a_case_of_so_many_gpus_depends_on(num_gpus: int, kept: Mapping[str, Any]) -> None:
    key = key_of_case(HOST_OF_8, num_gpus=num_gpus)

    assert key == {**CARD, **kept}
    assert key_of_case(key, num_gpus=num_gpus) == key


def test_the_topology_of_a_processor_stays_for_one_rank() -> None:
    machine = {**MACHINE, "topology": "1 socket"}

    assert key_of_case(machine, num_gpus=1) == machine


@pytest.mark.parametrize(
    ("workload", "num_gpus"),
    [
        pytest.param({"layout": {"gpus": 4}}, 4, id="trains"),
        pytest.param({"layout": {"gpus": 4, "generation": {"gpus": 4, "is_colocated": True}}}, 4, id="in turns"),
        pytest.param({"layout": {"gpus": 4, "generation": {"gpus": 2, "is_colocated": False}}}, 6, id="apart"),
        pytest.param({"workload": "loop", "num_gpus": 2}, 2, id="loop"),
        pytest.param({"workload": "benchmark", "test": "test_a.py::test_b"}, 1, id="benchmark"),
        pytest.param({"layout": {"gpus": "many"}}, 1, id="torn"),
    ],
)
def test_a_workload_tells_its_gpus(workload: Mapping[str, Any], num_gpus: int) -> None:
    assert num_gpus_of(workload) == num_gpus


@pytest.mark.parametrize(
    "plan",
    [
        make_plan(layouts={"cpu": Layout(gpus=1)}),
        make_plan(),
        make_rl_plan(
            layouts={"cpu": Layout(gpus=2, dp_shard=2, generation=GenerationLayout(gpus=1, is_colocated=False))}
        ),
    ],
    ids=["one", "two", "apart"],
)
def test_a_stored_workload_tells_as_many_gpus_as_its_layout(plan: Plan) -> None:
    assert num_gpus_of(workload_of(plan)) == plan.layout.total_gpus
