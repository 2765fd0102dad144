"""The run under the profiler: what becomes of it, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.baselines.profile_store import find_profile, profile_path, write_profile
from pytest_nemoperf.json_codec import to_json, to_json_line
from pytest_nemoperf.launchers.protocol import LaunchStatus, RankExit
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.records.profile import PROFILE_FILE, CaseProfile, Profile
from pytest_nemoperf.records.step import RunResult
from pytest_nemoperf.runs.profiled import profile_case, profiled, store_profile, unprofilable, with_stored_profile
from tests.builders import MACHINE, make_operators, make_plan, make_profile, make_provenance, make_records, make_rl_plan
from tests.runs.test_execute import ScriptedLauncher, append, leave_error

PLAN = make_plan(timeout_sec=60.0)
SEEN = Profile(
    case=PLAN.case,
    system="cpu",
    device="cpu",
    num_steps=5,
    num_ranks=2,
    step_time_sec=0.2,
    operators=make_operators(mm=(2, 0.1)),
)
COMMAND = "pytest --update-baselines --perf-profile"


def run_steps(run_dir: Path) -> None:
    plan = profiled(PLAN)
    append("steps.jsonl", "".join(map(to_json_line, make_records(plan, step_time_sec=1e-6))))(run_dir)
    append("result.json", to_json(RunResult(num_ranks=2, num_steps=plan.total_steps, device_name="cpu")))(run_dir)


def profile_of(run_dir: Path, *, polls: list[Callable[[Path], object]], **end: Any) -> CaseProfile:
    return profile_case(
        PLAN,
        launcher=ScriptedLauncher(polls=polls, **end),
        run_dir=run_dir,
        machine=MACHINE,
        provenance=make_provenance(),
        on_progress=lambda _: None,
    )


def test_a_profiled_plan_runs_few_steps_after_the_same_warm_up() -> None:
    plan, rl_plan = make_plan(steps=40, warmup_steps=4), make_rl_plan(steps=40)

    assert profiled(plan) == replace(plan, is_profiled=True, steps=5)
    assert profiled(rl_plan) == replace(rl_plan, is_profiled=True, steps=2)
    assert workload_of(profiled(plan)) == workload_of(plan)


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (PLAN, ""),
        (make_plan(framework="command", command=("train",)), "framework 'command'; only ranks of framework 'torch'"),
        (None, "in the test's own process"),
    ],
    ids=["torch", "command", "loop"],
)
def test_only_the_native_engine_can_be_profiled(plan: Any, why: str) -> None:
    reason = unprofilable(plan)

    assert why in reason
    assert bool(reason) == bool(why)


def test_a_profile_is_read_with_where_it_comes_from(tmp_path: Path) -> None:
    polls = [run_steps, append(PROFILE_FILE, to_json(SEEN)), append("trace-rank0.json.gz", "a trace")]

    found = profile_of(tmp_path / "profile", polls=polls)

    expected = replace(SEEN, machine=MACHINE, workload=workload_of(PLAN), provenance=make_provenance())
    assert found == CaseProfile(now=expected, traces=(str(tmp_path / "profile" / "trace-rank0.json.gz"),))


def test_a_profiled_run_that_fails_is_told_and_raises_nothing(tmp_path: Path) -> None:
    failures = (RankExit(rank=1, exit_code=1),)

    found = profile_of(tmp_path / "profile", polls=[leave_error(1)], status=LaunchStatus.FAILED, failures=failures)

    assert found.now is None
    assert found.problem == f"rank 1 of {PLAN.case} failed: ValueError: no such token; see {tmp_path / 'profile'}"


@pytest.mark.parametrize(
    ("polls", "why"),
    [([run_steps], "the ranks left no profile"), ([run_steps, append(PROFILE_FILE, "{")], "not JSON")],
    ids=["none", "torn"],
)
def test_ranks_that_leave_no_sound_profile_are_told(
    tmp_path: Path, polls: list[Callable[[Path], object]], why: str
) -> None:
    found = profile_of(tmp_path / "profile", polls=polls)

    assert found.now is None
    assert why in found.problem


def test_a_profile_is_compared_with_the_one_beside_the_baseline(tmp_path: Path) -> None:
    baseline, then = tmp_path / "cpu" / "pretrain-test.json", make_profile(step_time_sec=0.05)
    write_profile(baseline, profile=then)

    found = with_stored_profile(CaseProfile(now=make_profile()), baseline_path=baseline, store_command=COMMAND)

    assert found == CaseProfile(now=make_profile(), then=then)


@pytest.mark.parametrize(
    ("name", "stored", "why"),
    [
        ("", None, "there is no baseline"),
        ("a.json", None, "no profile is stored with the baseline"),
        ("a.json", to_json(make_profile(machine={"cpu": "another"})), "profiles/a.json: it is of another machine"),
        ("a.json", "{", "profiles/a.json: not JSON"),
    ],
    ids=["no baseline", "no profile", "another machine", "torn"],
)
def test_without_one_that_compares_it_says_why_and_what_stores_one(
    tmp_path: Path, name: str, stored: str | None, why: str
) -> None:
    baseline = tmp_path / name if name else None
    if baseline is not None and stored is not None:
        profile_path(baseline).parent.mkdir()
        profile_path(baseline).write_text(stored)

    found = with_stored_profile(CaseProfile(now=make_profile()), baseline_path=baseline, store_command=COMMAND)

    assert found.then is None
    assert why in found.problem
    assert found.store_command == COMMAND


def test_what_is_stored_is_found_and_what_is_not_is_told(tmp_path: Path) -> None:
    baseline = tmp_path / "cpu" / "pretrain-test.json"

    problem = store_profile(CaseProfile(now=make_profile()), baseline_path=baseline)

    assert problem == ""
    assert find_profile(baseline) == make_profile()
    failed = CaseProfile(problem="rank 0 failed")
    assert store_profile(failed, baseline_path=baseline) == "rank 0 failed"
