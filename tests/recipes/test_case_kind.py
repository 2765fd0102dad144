from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.recipes.case_kind import CaseKind, kind_of
from tests.builders import make_plan, make_rl_plan


@pytest.mark.parametrize(
    ("workload", "kind"),
    [
        pytest.param(workload_of(make_plan(layouts={"cpu": Layout(gpus=1)})), CaseKind.ONE_GPU, id="one"),
        pytest.param(workload_of(make_plan()), CaseKind.SEVERAL_GPUS, id="two"),
        pytest.param(workload_of(make_rl_plan()), CaseKind.RL, id="rl"),
        pytest.param(workload_of(make_rl_plan(layouts={"cpu": Layout(gpus=1)})), CaseKind.RL, id="rl on one"),
        pytest.param({"workload": "benchmark", "test": "test_a.py::test_b"}, CaseKind.CALLS, id="benchmark"),
        pytest.param({"workload": "loop", "num_gpus": 2, "tokens_per_step": 64}, CaseKind.CALLS, id="loop"),
    ],
)
def test_a_workload_tells_what_noise_to_expect(workload: Mapping[str, Any], kind: CaseKind) -> None:
    assert kind_of(workload) is kind
