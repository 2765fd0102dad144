"""``perf.collective``: a collective over real ranks, judged and stored like every other case."""

from __future__ import annotations

import json

import pytest

from tests.integration.conftest import Project, has_text

COLLECTIVE = """
import pytest

@pytest.mark.perf
@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"])
def test_ranks(perf, kind):
    perf.collective(kind, gpus={"cpu": 2}, size_mib=0.25)
"""


@pytest.fixture
def project(project: Project) -> Project:
    project.pytester.makepyfile(test_speed=COLLECTIVE)
    return project


@pytest.mark.ranks
def test_every_collective_is_timed_over_ranks_and_has_bandwidths(project: Project) -> None:
    result = project.run("--perf-fail-on=none", "--perf-runs=1")

    result.assert_outcomes(passed=5)
    for case in project.results()["cases"]:
        (run,) = case["measurement"]["runs"]
        metrics = run["metrics"]
        assert metrics["algorithm_gib_per_sec"] * metrics["time_per_call_sec"] == pytest.approx(2**-12, rel=1e-4)
        assert case["measurement"]["environment"]["distributed_backend"] == "gloo"
        assert len({*case["measurement"]["workload"]}) == 5
    with_two_ranks = next(case for case in project.results()["cases"] if "all_reduce" in case["nodeid"])
    (run,) = with_two_ranks["measurement"]["runs"]
    assert run["metrics"]["bus_gib_per_sec"] == pytest.approx(run["metrics"]["algorithm_gib_per_sec"], rel=1e-4)


def test_a_dry_run_lists_collectives_without_launching_them(project: Project) -> None:
    result = project.run("--perf-dry-run")

    result.assert_outcomes(skipped=5)
    assert has_text(result, "a collective has no recipe to price")
    asked = json.loads((project.root / ".nemoperf" / "latest" / "dry_run.json").read_text())["asked"]
    assert "collective-all_reduce-1n2g-fp32-262144b" in [each["case"] for each in asked]


def test_a_collective_of_another_system_skips_in_words(project: Project) -> None:
    project.pytester.makepyfile(test_speed=COLLECTIVE.replace('"cpu": 2', '"h100": 8'))

    result = project.run("-rs")

    result.assert_outcomes(skipped=5)
    assert has_text(result, "the collective all_reduce has no gpus for system cpu; it has them for h100")
