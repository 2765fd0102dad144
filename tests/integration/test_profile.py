"""--perf-profile: run a failing case once more under the profiler."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from pytest_nemoperf.cli.main import main
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.profile import CaseProfile
from pytest_nemoperf.session import profiles
from tests.builders import make_operators, make_profile
from tests.integration.conftest import CASE, NATIVE, Project

BY_COMMAND = "it runs under framework 'command'; only ranks of framework 'torch' run torch.profiler"
IN_THE_TEST = "it is measured in the test's own process; only ranks of framework 'torch' run torch.profiler"


@pytest.fixture
def profiler(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[float, float]]:
    """Replace the profiler; the returned dict holds the calls and seconds it reports by operator."""
    seen = {"mm": (40.0, 0.05)}

    def profile_case(plan: Plan, *, machine: Any, provenance: Any, **_: Any) -> CaseProfile:
        now = make_profile(case=plan.case, operators=make_operators(**seen))
        return CaseProfile(now=replace(now, machine=machine, provenance=provenance, workload=workload_of(plan)))

    monkeypatch.setattr(profiles, "profile_case", profile_case)
    return seen


def test_a_failure_says_why_its_case_was_not_profiled_and_stays_a_failure(project: Project) -> None:
    project.run("--update-baselines")
    project.set_step_time(0.2)

    result = project.run("--perf-profile")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [f"REGRESSED {CASE}", "operators (--perf-profile)", "*not profiled: it runs under framework 'command'*"]
    )
    result.stdout.no_fnmatch_line("*runs once more*")


def test_an_invalid_case_is_not_profiled(project: Project, profiler: dict[str, tuple[float, float]]) -> None:
    project.edit("steps.py", {'"loss": 6.5': '"loss": float("nan")'})

    result = project.run("--perf-profile")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"INVALID {CASE}*", "perf: no judged case failed but INVALID ones*"])


def test_an_update_that_can_store_no_profile_says_so_and_a_session_without_failures_too(project: Project) -> None:
    stored = project.run("--update-baselines", "--perf-profile")
    passed = project.run("--perf-profile")

    stored.assert_outcomes(passed=1)
    stored.stdout.fnmatch_lines([f"perf: the profile of {CASE} is not stored: {BY_COMMAND}"])
    assert project.baseline.exists()
    passed.assert_outcomes(passed=1)
    passed.stdout.fnmatch_lines(["perf: no judged case failed, so none ran under the profiler*"])


def test_benchmark_tests_whose_profiles_can_not_be_stored_have_one_line_for_all(project: Project) -> None:
    functions = [f"@pytest.mark.perf\ndef test_{name}(benchmark):\n    benchmark(time.sleep, 0.01)\n" for name in "abc"]
    project.pytester.makepyfile(test_speed="\n".join(["import time, pytest", *functions]))

    stored = project.run("--update-baselines", "--perf-profile", "--benchmark-max-time=0.1")

    stored.assert_outcomes(passed=3)
    told = [line for line in stored.stdout.lines if "profile" in line and "not stored" in line]
    assert told == [f"perf: the profiles of 3 cases are not stored; of each, {IN_THE_TEST}"]


def test_a_failure_is_compared_with_the_profile_of_the_update(
    project: Project, profiler: dict[str, tuple[float, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    stored = project.run("--update-baselines", "--perf-profile")
    project.set_step_time(0.2)
    profiler["mm"] = (80.0, 0.15)

    failed = project.run("--perf-profile")

    path = f"baselines/cpu/profiles/{CASE}.json"
    stored.stdout.fnmatch_lines([f"perf: the profile of {CASE} is stored as {path}"])
    assert json.loads((project.root / path).read_text())["case"] == CASE
    failed.assert_outcomes(failed=1)
    failed.stdout.fnmatch_lines(["*aten::mm adds most: 100 ms *50 ms -> 150 ms in 40 -> 80 calls"])
    failed.stdout.no_fnmatch_line("*not of the baseline's session*")
    capsys.readouterr()
    assert main(["lint", str(project.root / "baselines")]) == 0, capsys.readouterr().out


def test_an_update_that_keeps_a_baseline_still_stores_the_profile_it_was_asked_for(
    project: Project, profiler: dict[str, tuple[float, float]]
) -> None:
    project.run("--update-baselines")
    before = project.baseline.read_text()

    result = project.run("--update-baselines", "--perf-profile")

    result.stdout.fnmatch_lines([f"perf: the profile of {CASE} is stored as baselines/cpu/profiles/{CASE}.json"])
    assert project.baseline.read_text() == before


def test_without_a_stored_profile_the_command_that_stores_one_is_shown(
    project: Project, profiler: dict[str, tuple[float, float]]
) -> None:
    project.run("--update-baselines")
    project.set_step_time(0.2)

    result = project.run("--perf-profile")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*not compared: no profile is stored with the baseline", "*--update-baselines --perf-profile*"]
    )


@pytest.mark.ranks
@pytest.mark.slow
def test_real_ranks_are_profiled(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    # on a busy machine the case may be INVALID, which is not profiled elsewhere
    monkeypatch.setattr("pytest_nemoperf.session.perf_session.is_profile_due", lambda _, updating: updating is None)
    project.pytester.makepyfile(test_speed=NATIVE.format(axis="dp_shard", env="{}"))
    case = "pretrain-speck-1n2g-torch-fp32-fsdp2-seq16-gbs2-mbs1"

    result = project.run("-k", "two", "--perf-profile", "--perf-fail-on=no_baseline,invalid")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            f"perf: {case} runs once more under torch.profiler",
            "operators (4 steps of 2 ranks under torch.profiler)",
            "*not compared: there is no baseline *",
            f"  .nemoperf/runs/*/{case}/profile/trace-rank0.json.gz",
            f"  .nemoperf/runs/*/{case}/profile/trace-rank1.json.gz",
        ]
    )
