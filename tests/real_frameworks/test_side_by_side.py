"""One recipe in the native engine and in every framework whose environment is built, in one perf session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from pytest_nemoperf.frameworks.protocol import Framework
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.records.yardstick import YARDSTICK_OFF, YARDSTICK_VARIABLE
from tests.real_frameworks import on_cpu
from tests.real_frameworks.build import ENVIRONMENTS, ROOT

pytestmark = [pytest.mark.frameworks, pytest.mark.ranks]

RELATIVE_PCT: Final = 1e-3
"""Difference of losses in fp32, percent: 1e-5 relative."""

CONFTEST = """
import os
from pytest_nemoperf.records import health
from tests.real_frameworks import test_side_by_side

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # each framework would take threads of its own choice
health.MAX_FOREIGN_SHARE = health.MAX_STEAL_SHARE = 2.0  # other load beside the tests is no failure

def pytest_nemoperf_frameworks(config):
    return list(test_side_by_side.built().values())
"""
TEST = """
import pytest
from pytest_nemoperf import Layout, Recipe

from tests.builders import ROUND_MODEL

@pytest.mark.perf
def test_round(perf):
    perf.check(Recipe(model=ROUND_MODEL, layouts={{"cpu": {layout!r}}}, seq_len=64, global_batch_size=4,
                      precision="fp32", steps=4, warmup_steps=2, timeout_sec=300.0))
"""


def built() -> dict[str, Framework]:
    """Return the frameworks of on_cpu.py whose environments are built, by the name of the environment."""
    found: dict[str, Framework] = {}
    for kind in vars(on_cpu).values():
        if isinstance(kind, type) and kind.__module__ == on_cpu.__name__:
            framework = kind()
            name = framework.name.removesuffix("_cpu")
            if (ENVIRONMENTS / name / "bin" / "python").exists():
                found[name] = framework
    return found


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows side by side in results.json by framework."""
    (comparison,) = json.loads((folder / "results.json").read_text())["by_framework"]
    return {row["framework"]: row for row in comparison["rows"]}


LAYOUTS: Final = (Layout(gpus=1), Layout(gpus=2, dp_replicate=2), Layout(gpus=2, tp=2, sequence_parallel=False))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.label)
def test_real_frameworks_train_the_same_beside_the_native_engine(
    layout: Layout, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    frameworks = built()
    assert frameworks, f"there is no environment in {ENVIRONMENTS}; build one with: make test-frameworks"
    names = ["torch", *(framework.name for framework in frameworks.values())]
    pythons = [f"    {each.name}={ENVIRONMENTS / name / 'bin' / 'python'}" for name, each in frameworks.items()]
    pytester.makeini("\n".join(["[pytest]", "perf_runs = 1", "perf_budget = 0", "perf_python =", *pythons]))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_round=TEST.format(layout=layout))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(YARDSTICK_VARIABLE, YARDSTICK_OFF)

    result = pytester.runpytest_subprocess(
        "-m", "perf", "--system=cpu", "-p", "no:cacheprovider", "--perf-fail-on=none",
        f"--perf-framework={','.join(names)}",
    )  # fmt: skip

    result.assert_outcomes(passed=len(names))
    rows = rows_of(pytester.path / ".nemoperf" / "latest")
    assert list(rows) == names
    for name in names[1:]:
        assert not rows[name]["problem"]
        assert abs(rows[name]["loss"]["change_pct"]) <= RELATIVE_PCT
        assert rows[name]["ratio"] > 0
