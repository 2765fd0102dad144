"""Parts of the stages' programs: forked processes, ranks on one GPU, fast paths, results of sessions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gpu_check.findings import Findings, Table, read_findings
from gpu_check.process import stage_environment
from gpu_check.programs import fast_paths, memory, profile, ranks, suite, verdicts
from gpu_check.programs.forked import Ended, run_forked, tail
from gpu_check.programs.parts import keep_row, kept_row
from gpu_check.programs.program import Context, Exit
from gpu_check.programs.sessions import Session, figure, metric
from gpu_check.programs.suite import measured_cases

from pytest_nemoperf.models.catalog import find_model
from pytest_nemoperf.native.fast_paths import FAST_PATHS
from pytest_nemoperf.records.profile import Operator, Profile

ROOT = Path(__file__).parents[2]
NODEID = "perf_tests/test_pretrain.py::test_llama3_2_1b_on_one_gpu"


def context_of(tmp_path: Path, *, system: str = "h200") -> Context:
    folder = tmp_path / "suite"
    folder.mkdir(exist_ok=True)
    return Context(folder=folder, system=system)


def case_of(*, kind: str = "PASSED", nodeid: str = NODEID, runs: int = 1, case: str = "a") -> dict[str, Any]:
    measured = {"metrics": {"peak_memory_gib": 42.5, "step_time_sec": 0.66}}
    return {
        "nodeid": nodeid,
        "plan": {"is_compiled": False, "framework": "torch"},
        "measurement": {"case": case, "runs": [measured] * runs},
        "verdict": {"kind": kind, "reasons": ["as said"]},
    }


def write_session(context: Context, *cases: dict[str, Any], number: int = 1) -> None:
    folder = context.folder / f"session-{number}"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"cases": cases, "not_run": []}), encoding="utf-8")


def fork_two(run: Callable[[], object], tmp_path: Path, *, limit_sec: float = 60.0) -> list[int | None]:
    environments = [{"NUMBER": "0"}, {"NUMBER": "1"}]
    logs = [tmp_path / "0.log", tmp_path / "1.log"]
    return [end.status for end in run_forked(run, environments=environments, logs=logs, limit_sec=limit_sec)]


def test_forked_processes_have_their_variables_and_logs(tmp_path: Path) -> None:
    assert fork_two(lambda: print("number", os.environ["NUMBER"]), tmp_path) == [0, 0]
    assert tail(tmp_path / "1.log") == "number 1"


def test_a_forked_process_that_raises_leaves_its_traceback(tmp_path: Path) -> None:
    def run() -> None:
        if os.environ["NUMBER"] == "1":
            raise RuntimeError("on purpose")

    assert fork_two(run, tmp_path) == [0, 1]
    assert tail(tmp_path / "1.log").endswith("RuntimeError: on purpose")


def test_forked_processes_are_killed_at_the_limit(tmp_path: Path) -> None:
    def run() -> None:
        if os.environ["NUMBER"] == "1":
            time.sleep(600)

    assert fork_two(run, tmp_path, limit_sec=3.0) == [0, None]


def test_ranks_that_share_a_gpu_have_a_host_each(tmp_path: Path) -> None:
    environments = [
        ranks.rank_environment(rank, num_ranks=2, port=1, folder=tmp_path, shares_gpu=True) for rank in range(2)
    ]

    assert [each["LOCAL_RANK"] for each in environments] == ["0", "0"]
    assert len({each["NCCL_HOSTID"] for each in environments}) == 2


@pytest.mark.parametrize("system", ["h100", "h200", "b200", "cpu"])
def test_every_layout_and_every_fast_path_can_be_planned(tmp_path: Path, system: str) -> None:
    context = context_of(tmp_path, system=system)

    for case in (*ranks._DENSE, ranks._FAILING):
        ranks._plan(context, model=ranks.dense_model(), case=case)
    for case in ranks._MIXTURE:
        ranks._plan(context, model=find_model("qwen3-30b-a3b-twin"), case=case)
    for workload in fast_paths.WORKLOADS.values():
        fast_paths._plan(context, workload)


def test_every_fast_path_has_a_workload() -> None:
    assert set(fast_paths.WORKLOADS) == {path.name for path in FAST_PATHS}


@pytest.mark.parametrize(
    ("off", "on", "options", "says"),
    [
        ((1.0, 1.01), (0.9, 0.95), {}, "may become the default"),
        ((1.0, 1.2), (0.9, 1.05), {}, "no faster beyond the scatter"),
        ((1.0, 1.01), (1.1, 1.2), {}, "stays off: slower"),
        ((1.0, 1.01), (1.0, 1.01), {"saves_memory": True}, "less memory"),
        ((1.0, 1.01), (0.5, 0.5), {"is_same": False}, "losses differ"),
        ((1.0, 1.01), (0.5, 0.5), {"is_cpu": True}, "a CPU says nothing"),
    ],
)
def test_a_fast_path_is_recommended_only_if_every_turn_was_faster(
    off: tuple[float, float], on: tuple[float, float], options: dict[str, bool], says: str
) -> None:
    values = {"is_same": True, "saves_memory": False, "is_cpu": False, **options}

    assert says in fast_paths.advice(off, on, **values)


def test_the_largest_difference_of_losses_is_relative() -> None:
    assert fast_paths.largest_difference([[10.0, 2.0]], [[10.1, 2.0]]) == pytest.approx(0.01)


def test_cases_of_several_sessions_count_once_and_invalid_ones_not(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    write_session(context, case_of(case="a"), case_of(case="b", kind="INVALID"))
    write_session(context, case_of(case="a"), case_of(case="b"), number=2)

    assert [case["measurement"]["case"] for case in measured_cases(context)] == ["a", "b"]


def test_an_invalid_stand_in_counts_if_it_has_runs(tmp_path: Path) -> None:
    context = context_of(tmp_path, system="cpu")
    write_session(context, case_of(case="a", kind="INVALID"), case_of(case="b", kind="INVALID", runs=0))

    assert [case["measurement"]["case"] for case in measured_cases(context)] == ["a"]


@pytest.mark.parametrize(("estimated_gib", "num_problems"), [(42.4, 0), (44.0, 1)])
def test_a_peak_off_its_estimate_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimated_gib: float, num_problems: int
) -> None:
    context = context_of(tmp_path)
    write_session(context, case_of())
    price = {"stages": [{"total": estimated_gib * 2**30, "generating": 0}]}
    monkeypatch.setattr(memory, "_prices", lambda *_arguments: {"a": price})
    findings = Findings()

    memory.examine(Context(folder=tmp_path / "memory", system="h200"), findings)

    assert len(findings.problems) == num_problems


@pytest.mark.parametrize(
    ("kind", "exit_status", "num_problems"),
    [("REGRESSED", 1, 0), ("REGRESSED", 0, 1), ("PASSED", 0, 1), ("INCONCLUSIVE", 0, 1)],
)
def test_a_slowed_case_must_be_regressed_and_fail_its_session(
    tmp_path: Path, kind: str, exit_status: int, num_problems: int
) -> None:
    findings = expect_regressed(context_of(tmp_path), kind=kind, exit_status=exit_status)

    assert len(findings.problems) == num_problems


def expect_regressed(context: Context, *, kind: str, exit_status: int) -> Findings:
    findings = Findings()
    session = Session(exit_status=exit_status, cases=(case_of(kind=kind),), not_run=())
    verdicts._expect(session, context, kind="REGRESSED", exit_status=1, findings=findings, name="slowed by 6%")
    return findings


@pytest.mark.parametrize(("kind", "is_judged"), [("INVALID", False), ("NO BASELINE", False), ("PASSED", True)])
def test_a_dry_run_on_a_busy_machine_is_not_judged_and_never_passed(
    tmp_path: Path,
    kind: str,
    is_judged: bool,  # noqa: FBT001 (parametrized)
) -> None:
    findings = expect_regressed(context_of(tmp_path, system="cpu"), kind=kind, exit_status=1)

    assert bool(findings.problems) is is_judged
    assert bool(findings.unjudged) is not is_judged


def test_tests_are_left_until_each_of_their_cases_has_a_sound_verdict(tmp_path: Path) -> None:
    context = replace(context_of(tmp_path), tests=("a", "b", "c"), options=("--perf-framework=torch,megatron",))
    whole = [case_of(nodeid="a", case=case) for case in ("torch", "megatron")]
    write_session(
        context, *whole, case_of(nodeid="b", case="torch"), case_of(nodeid="b", case="megatron", kind="INVALID")
    )

    assert suite.tests_left(context) == ["b", "c"]


def test_a_bad_verdict_of_an_earlier_start_still_fails_the_stage(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    write_session(context, case_of(kind="REGRESSED"))
    write_session(context, case_of(nodeid="b", case="b"), number=2)
    findings = Findings()

    suite._add_bad(context, findings)

    assert findings.problems == ["llama3_2_1b_on_one_gpu is REGRESSED: as said"]


def test_the_last_of_several_verdicts_counts(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    write_session(context, case_of(kind="REGRESSED"), number=2)
    write_session(context, case_of(), number=10)

    assert [case["verdict"]["kind"] for case in suite.judged_cases(context.folder)] == ["PASSED"]


def test_a_finished_part_counts_for_the_same_work_only(tmp_path: Path) -> None:
    keep_row(tmp_path, work="plan", row=["a", "1"])

    assert kept_row(tmp_path, work="plan") == ["a", "1"]
    assert kept_row(tmp_path, work="another plan") is None
    assert kept_row(tmp_path / "none", work="plan") is None


@pytest.mark.parametrize(
    ("way", "failing", "waiting", "says"),
    [
        ("raises", (1, 5.0), (1, 6.0), ""),
        ("is killed", (-9, 5.0), (1, 6.0), ""),
        ("is killed", (1, 5.0), (1, 6.0), "should end with -9"),
        ("raises", (1, 5.0), (None, 60.0), "rank 0 hung for 55 s"),
        ("raises", (1, 5.0), (1, 30.0), "rank 0 hung for 25 s"),
        ("raises", (1, 5.0), (0, 6.0), "rank 0 ended with 0"),
    ],
)
def test_a_rank_must_end_soon_after_the_one_it_waits_for(
    tmp_path: Path, way: str, failing: tuple[int, float], waiting: tuple[int | None, float], says: str
) -> None:
    ends = [Ended(status=status, seconds=seconds) for status, seconds in (waiting, failing)]

    problems = ranks.failure_problems(ends[0], failing=ends[1], way=way, folder=tmp_path)

    assert [says in problem for problem in problems] == ([True] if says else [])


def test_figures_of_a_case_are_medians_or_not_there() -> None:
    assert metric(case_of(runs=3), "peak_memory_gib") == 42.5
    assert metric(case_of(), "joules_per_token") is None
    assert figure(None) == "n/a"


def test_findings_are_read_as_they_were_written(tmp_path: Path) -> None:
    findings = Findings(problems=["a"], remarks=["b"])
    findings.table("Figures", ["name", "value"]).add("x", "1|2")

    findings.write(tmp_path)

    assert read_findings(tmp_path) == findings
    assert read_findings(tmp_path / "none") == Findings()


def test_a_table_in_markdown_keeps_bars_inside_its_cells() -> None:
    table = Table(title="Figures", columns=["name"], rows=[["a|b"]])

    assert table.markdown() == "Figures\n\n| name |\n| --- |\n| a\\|b |"


def profile_with(**operators: float) -> Profile:
    """Return a profile of a step of 1 s with the operators' seconds."""
    return Profile(
        case="a",
        system="h200",
        device="cuda",
        num_steps=5,
        num_ranks=1,
        step_time_sec=1.0,
        operators={name: Operator(calls_per_step=1, self_sec_per_step=sec) for name, sec in operators.items()},
    )


@pytest.mark.parametrize(
    ("operators", "says"),
    [
        ({"mm": 0.6, "copy": 0.41}, []),
        ({"mm": 0.6}, ["sum to 600.0 ms of a step of 1000.0 ms"]),
        ({"mm": 0.99, "remark": 1.02}, ["remark takes 1020.0 ms", "sum to 2010.0 ms"]),
    ],
)
def test_operators_that_do_not_make_the_step_are_a_problem(operators: dict[str, float], says: list[str]) -> None:
    problems = profile.problems_of(profile_with(**operators))

    assert len(problems) == len(says)
    assert all(part in problem for part, problem in zip(says, problems, strict=True))


def test_a_step_of_the_dry_run_has_a_profile(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "gpu_check.programs.profile", f"--folder={tmp_path}", "--system=cpu"]
    env = stage_environment(ROOT / "benchmarks")

    run = subprocess.run(program, env=env, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.returncode in {Exit.PASSED, Exit.NOT_JUDGED}, run.stdout + run.stderr  # a busy machine is not judged
    (table,) = read_findings(tmp_path).tables
    assert table.title == "pretrain-llama-tiny-1n1g-torch-fp32-single-seq128-gbs4-mbs2, cpu"
    assert table.rows[-1][0].startswith("sum of all")
