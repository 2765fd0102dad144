from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.logs.log_format import LogFormat, LogKind
from pytest_nemoperf.recipes.recipe import Plan, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.health import GpuHealth, HealthReport
from pytest_nemoperf.runs.logged import LogFile, LoggedCase, measure_logs
from tests.logs.event_writer import write_events
from tests.runs.job_logs import RECIPE, STEP_MS, write_megatron_log, write_step_records

MONDAY = 1_763_366_400.0


def plan_of(**changes: Any) -> Plan:
    return resolve(Recipe(**{**RECIPE, **changes}), system=find_system("h100"))


def measure(*paths: Path, plan: Plan | None = None, date: str = "") -> LoggedCase:
    plan = plan or plan_of()
    logs = [LogFile(path=path) for path in paths]
    return measure_logs(plan, log_format=plan.log_format or "steps", logs=logs, date=date)


def test_a_log_is_a_run_whose_steps_after_warm_up_all_count(tmp_path: Path) -> None:
    logs = [write_megatron_log(tmp_path / name) for name in ("a.log", "b.log")]

    case = measure(*logs)

    first, second = case.measurement.runs
    assert case.measurement.problems == ()
    assert first.num_steps == 17
    assert first.metrics["step_time_sec"] == pytest.approx(STEP_MS / 1000, rel=0.01)
    assert first.metrics["tokens_per_sec_per_gpu"] == pytest.approx(128 * 8192 / 15.0 / 8, rel=0.01)
    assert first.metrics != second.metrics
    assert (case.plan.warmup_steps, case.plan.steps) == (3, 17)
    assert case.source == "2 logs (megatron): a.log, b.log"


def test_what_a_log_does_not_tell_is_missing_and_not_zero(tmp_path: Path) -> None:
    (run,) = measure(write_megatron_log(tmp_path / "a.log")).measurement.runs

    assert "peak_memory_gib" not in run.metrics
    assert run.phases == {}
    assert run.sm_clock_mhz == ()


def test_records_that_are_means_over_steps_are_said_to_be(tmp_path: Path) -> None:
    case = measure(write_megatron_log(tmp_path / "a.log", num_steps=200, interval=10))

    assert case.logs[0].steps_per_record == 10
    assert (case.logs[0].num_records, case.logs[0].num_warmup) == (20, 1)
    assert (case.plan.warmup_steps, case.plan.steps) == (10, 190)
    assert case.source == "1 log (megatron, means over 10 steps): a.log"
    assert case.notes == (
        "each time is the mean over 10 steps, as logged: slow steps are part of it, which medians over single steps "
        "leave out",
    )


@pytest.mark.parametrize(
    ("changes", "last_step"),
    [
        pytest.param({}, 19, id="from the start"),
        pytest.param({"first_step": 501}, 519, id="continued"),
        pytest.param({"num_steps": 200, "interval": 10}, 199, id="every tenth step"),
    ],
)
def test_losses_belong_to_steps_of_the_job_and_not_of_the_file(
    tmp_path: Path, changes: dict[str, Any], last_step: int
) -> None:
    (run,) = measure(write_megatron_log(tmp_path / "a.log", **changes)).measurement.runs

    assert run.last_step == last_step


def test_jobs_of_one_day_are_one_session_and_those_of_others_are_others(tmp_path: Path) -> None:
    logs = [write_megatron_log(tmp_path / f"{number}.log", day=day) for number, day in enumerate((16, 16, 17))]

    case = measure(*logs)

    assert [run.session for run in case.measurement.runs] == ["2026-11-16", "2026-11-16", "2026-11-17"]
    assert case.date.startswith("2026-11-17T08:")


def test_a_stated_date_is_that_of_every_log(tmp_path: Path) -> None:
    logs = [write_megatron_log(tmp_path / "a.log", day=16), write_megatron_log(tmp_path / "b.log", day=17)]

    case = measure(*logs, date="2026-11-20T00:00:00+00:00")

    assert {run.session for run in case.measurement.runs} == {"2026-11-20"}
    assert case.date == "2026-11-20T00:00:00+00:00"


def test_step_records_are_a_format_of_their_own(tmp_path: Path) -> None:
    plan = plan_of(log_format="")
    path = write_step_records(tmp_path / "steps.jsonl", tokens=plan.tokens_per_step, step_time_sec=15.0)

    for log in (path, tmp_path):
        case = measure(log, plan=plan)

        assert case.logs[0].log_format == "steps"
        assert "log_format" not in case.measurement.workload
        assert case.measurement.problems == ()


def test_a_format_of_the_recipes_own_reads_any_log(tmp_path: Path) -> None:
    log_format = LogFormat(kind=LogKind.TEXT, patterns=(r"step (?P<step>\d+) took (?P<step_time_sec>[\d.]+) s",))
    lines = [f"step {step} took {15.0 + 0.01 * (step % 3):.2f} s\n" for step in range(12)]
    (tmp_path / "mine.txt").write_text("".join(lines))

    case = measure(tmp_path / "mine.txt", plan=plan_of(log_format=log_format))

    assert case.logs[0].log_format == "own text"
    assert case.measurement.runs[0].num_steps == 9


def test_the_event_files_of_a_run_are_a_log(tmp_path: Path) -> None:
    plan = plan_of(log_format=LogFormat(kind=LogKind.TENSORBOARD, fields={"step_time_sec": "timing/step"}))
    files = []
    for run in range(2):
        steps = [(step, 15.0 * step, {"timing/step": 15.0 + 0.01 * ((step + run) % 3)}) for step in range(12)]
        files.append(write_events(tmp_path / f"job-{run}" / "tb", steps, start=MONDAY))

    case = measure(tmp_path / "job-0", files[1], plan=plan)

    assert [log.num_records for log in case.logs] == [12, 12]
    assert [log.date for log in case.logs] == ["2025-11-17T08:00:00+00:00"] * 2
    assert case.measurement.problems == ()
    assert case.measurement.runs[0].metrics["step_time_sec"] == pytest.approx(15.01, rel=0.01)


def test_a_folder_without_event_files_is_named(tmp_path: Path) -> None:
    plan = plan_of(log_format=LogFormat(kind=LogKind.TENSORBOARD, fields={"step_time_sec": "timing/step"}))

    with pytest.raises(RecordError, match=r"no event files \(\*tfevents\*\)"):
        measure(tmp_path, plan=plan)


def test_a_log_of_another_batch_is_invalid_with_the_arithmetic(tmp_path: Path) -> None:
    log = write_megatron_log(tmp_path / "a.log", batch=256)

    (problem,) = measure(log).measurement.problems

    assert "step 3 has 2097152 tokens, 1048576 were asked for" in problem


def test_logs_whose_losses_differ_are_of_other_jobs(tmp_path: Path) -> None:
    logs = [write_megatron_log(tmp_path / "a.log"), write_megatron_log(tmp_path / "b.log", first_loss=9.0)]

    (problem,) = measure(*logs).measurement.problems

    assert problem == (
        "losses at step 19 are from 8.8 to 10.8 (allowed 2% apart): these logs are not of one recipe, or their data "
        "differ"
    )


def test_losses_of_continued_jobs_are_not_compared_with_those_of_the_first(tmp_path: Path) -> None:
    logs = [write_megatron_log(tmp_path / "a.log"), write_megatron_log(tmp_path / "b.log", first_step=501)]

    assert measure(*logs).measurement.problems == ()


def test_logs_of_different_lengths_are_taken_and_pointed_out(tmp_path: Path) -> None:
    logs = [write_megatron_log(tmp_path / "a.log", num_steps=100), write_megatron_log(tmp_path / "b.log", num_steps=20)]

    case = measure(*logs)

    assert case.measurement.problems == ()
    assert case.notes == ("the logs have from 20 to 100 steps; one that ended early may be of a job that failed",)


@pytest.mark.parametrize(("slowed_share", "num_problems"), [(0.0, 0), (0.9, 1)])
def test_a_health_report_counts_as_in_a_session(tmp_path: Path, slowed_share: float, num_problems: int) -> None:
    gpu = GpuHealth(gpu=0, reasons={"hw_thermal_slowdown": slowed_share})
    report = HealthReport(seconds=60.0, num_samples=100, is_measured_steps=True, gpus=(gpu,))
    (tmp_path / "health.json").write_text(to_json(report))
    log = write_megatron_log(tmp_path / "a.log")

    case = measure_logs(plan_of(), log_format="megatron", logs=[LogFile(path=log, health=tmp_path / "health.json")])

    assert case.logs[0].has_health
    assert len(case.measurement.problems) == num_problems


def test_a_health_report_beside_a_log_that_is_not_given_is_pointed_out(tmp_path: Path) -> None:
    report = tmp_path / "health.json"
    report.write_text(to_json(HealthReport(seconds=60.0, num_samples=100, is_measured_steps=True)))
    log = write_megatron_log(tmp_path / "a.log")

    without = measure(log)
    given = measure_logs(plan_of(), log_format="megatron", logs=[LogFile(path=log, health=report)])

    assert without.notes == (f"{report} lies beside a log and was not read; --health {report} lets it count",)
    assert given.notes == ()


def test_a_report_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "health.json").write_text('{"gpu": 1}')
    log = write_megatron_log(tmp_path / "a.log")

    with pytest.raises(RecordError, match=r"health\.json: \$\.gpu: unknown key; did you mean gpus or cpu\?"):
        measure_logs(plan_of(), log_format="megatron", logs=[LogFile(path=log, health=tmp_path / "health.json")])


def _missing(folder: Path) -> list[Path]:
    return [folder / "no.log"]


def _pipe(folder: Path) -> list[Path]:
    os.mkfifo(folder / "pipe.log")
    return [folder / "pipe.log"]


def _circle(folder: Path) -> list[Path]:
    (folder / "circle.log").symlink_to(folder / "circle.log")
    return [folder / "circle.log"]


def _same_file(folder: Path) -> list[Path]:
    log = write_megatron_log(folder / "a.log")
    (folder / "link.log").symlink_to(log)
    return [log, folder / "link.log"]


def _copy(folder: Path) -> list[Path]:
    log = write_megatron_log(folder / "a.log")
    (folder / "copy.log").write_text(f"copied\n{log.read_text()}")
    return [log, folder / "copy.log"]


def _end_of_same(folder: Path) -> list[Path]:
    log = write_megatron_log(folder / "a.log", num_steps=30)
    lines = log.read_text().splitlines(keepends=True)
    (folder / "tail.log").write_text("".join(lines[-12:]))
    return [log, folder / "tail.log"]


def _empty(folder: Path) -> list[Path]:
    (folder / "empty.log").touch()
    return [folder / "empty.log"]


def _binary(folder: Path) -> list[Path]:
    (folder / "binary.log").write_bytes(bytes(range(256)) * 400)
    return [folder / "binary.log"]


def _folder(folder: Path) -> list[Path]:
    write_megatron_log(folder / "a.log")
    return [folder]


def _short(folder: Path) -> list[Path]:
    return [write_megatron_log(folder / "a.log", num_steps=6)]


def _few_means(folder: Path) -> list[Path]:
    return [write_megatron_log(folder / "a.log", num_steps=100, interval=25)]


def _two_runs(folder: Path) -> list[Path]:
    log = write_megatron_log(folder / "a.log")
    log.write_text(log.read_text() * 2)
    return [log]


def _other_format(folder: Path) -> list[Path]:
    return [write_step_records(folder / "a.log", tokens=1)]


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (_missing, "no.log: cannot be read: No such file or directory; give the log of a run"),
        (_pipe, "pipe.log: is neither a file nor a folder; write what it holds to a file first"),
        (_circle, "circle.log: cannot be read: "),
        (_same_file, "link.log: is {folder}/a.log again; give each run's log once"),
        (_copy, "copy.log: 20 of its steps are those of {folder}/a.log, times and all; give one log a run"),
        (_end_of_same, "tail.log: 12 of its steps are those of {folder}/a.log"),
        (_empty, "empty.log is empty: no step of log_format='megatron'"),
        (_binary, "no step of log_format='megatron' in {folder}/binary.log"),
        (_folder, "is a folder, and a log of megatron is a file; give the file in it"),
        (_short, "a.log: has 6 records of steps, and needs 3 of warm-up and 4 more at least"),
        (_few_means, "a.log: has 4 records of steps, and needs 1 of warm-up and 4 more at least"),
        (_two_runs, "two runs in one log"),
        (_other_format, "no step of log_format='megatron' in {folder}/a.log"),
    ],
)
def test_an_impossible_log_is_told_in_words(tmp_path: Path, write: Callable[[Path], list[Path]], problem: str) -> None:
    paths = write(tmp_path)

    with pytest.raises(RecordError, match=re.escape(problem.format(folder=tmp_path))):
        measure(*paths)


def test_step_records_of_two_runs_are_no_log(tmp_path: Path) -> None:
    plan = plan_of(log_format="")
    for name in ("run-1", "run-2"):
        (tmp_path / name).mkdir()
        write_step_records(tmp_path / name / "steps.jsonl", tokens=plan.tokens_per_step)

    with pytest.raises(RecordError, match=r"run-1/steps\.jsonl and .*run-2/steps\.jsonl are of two runs"):
        measure(tmp_path, plan=plan)


def test_step_records_without_a_step_are_no_log(tmp_path: Path) -> None:
    (tmp_path / "steps.jsonl").touch()

    with pytest.raises(RecordError, match=r"steps\.jsonl: is empty; give the log of a run that has trained"):
        measure(tmp_path / "steps.jsonl", plan=plan_of(log_format=""))


def test_of_a_folder_the_file_at_its_top_is_the_log(tmp_path: Path) -> None:
    plan = plan_of(log_format="")
    (tmp_path / "yardstick").mkdir()
    for folder in (tmp_path, tmp_path / "yardstick"):
        write_step_records(folder / "steps.jsonl", tokens=plan.tokens_per_step, step_time_sec=15.0)

    assert len(measure(tmp_path, plan=plan).measurement.runs) == 1


def test_times_of_a_coarse_clock_do_not_make_two_runs_one(tmp_path: Path) -> None:
    plan = plan_of(log_format="")
    for name in ("a.jsonl", "b.jsonl"):
        records = [
            {"step": step, "step_time_sec": 15.0, "tokens": plan.tokens_per_step, "loss": 6.5} for step in range(9)
        ]
        (tmp_path / name).write_text("".join(json.dumps(record) + "\n" for record in records))

    assert len(measure(tmp_path / "a.jsonl", tmp_path / "b.jsonl", plan=plan).measurement.runs) == 2


def test_a_folder_is_read_by_the_name_that_the_recipe_gives(tmp_path: Path) -> None:
    write_megatron_log(tmp_path / "job" / "logs" / "train.log")
    plan = replace(plan_of(), log_file="logs/train.log")

    assert measure(tmp_path / "job", plan=plan).logs[0].path == str(tmp_path / "job")
    with pytest.raises(RecordError, match=r"has no file other\.log, as a log of megatron is called"):
        measure(tmp_path / "job", plan=replace(plan, log_file="{run_dir}/other.log"))
