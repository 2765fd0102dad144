from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.json_codec import to_json, to_json_line
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.measure.measurement import Measurement, measure_outputs
from pytest_nemoperf.records.health import GpuHealth, HealthReport
from pytest_nemoperf.records.step import RunOutput
from pytest_nemoperf.runs.replay import _read_case, find_cases, load_case, load_runs, measure_stored, write_case
from tests.builders import MACHINE, make_plan, make_provenance, make_records, make_rl_plan, make_rl_records
from tests.runs.stored_runs import make_record, store_case, store_run

PLAN = make_plan(timeout_sec=60.0)


def measured(*run_dirs: Path) -> Measurement:
    return measure_stored(load_runs(run_dirs), framework=TorchFramework())


def step_times(measurement: Measurement) -> list[float]:
    return [run.metrics["step_time_sec"] for run in measurement.runs]


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.fixture
def case_dir(tmp_path: Path) -> Path:
    """Return the folder of a case of three runs."""
    store_case(tmp_path / "session" / PLAN.case, plan=PLAN, times=(0.1, 0.2, 0.3))
    return tmp_path / "session" / PLAN.case


def test_a_case_record_is_read_back_as_written(tmp_path: Path) -> None:
    record = make_record(PLAN, runs=("run-1", "run-2b"), unreadable="run 2: torn")

    write_case(tmp_path / PLAN.case, record=record)

    assert _read_case(tmp_path / PLAN.case) == record
    assert find_cases(tmp_path) == [record]


def test_stored_runs_measure_as_in_their_session(case_dir: Path) -> None:
    outputs = [
        RunOutput(records=tuple(make_records(PLAN, step_time_sec=time, rank_times_sec=()))) for time in (0.1, 0.2, 0.3)
    ]

    assert measured(case_dir) == measure_outputs(PLAN, outputs=outputs)


def test_stored_runs_of_reinforcement_learning_measure_as_in_their_session(tmp_path: Path) -> None:
    plan = make_rl_plan()
    records = make_rl_records(plan)
    store_case(tmp_path, plan=plan)
    (tmp_path / "run-1" / "steps.jsonl").write_text("".join(map(to_json_line, records)))

    assert measured(tmp_path) == measure_outputs(plan, outputs=[RunOutput(records=tuple(records))])


def test_an_unhealthy_machine_makes_stored_runs_invalid_again(case_dir: Path) -> None:
    health = HealthReport(seconds=2.0, num_samples=3, is_measured_steps=True, gpus=(GpuHealth(gpu=0, xids=(79,)),))
    (case_dir / "run-2" / "health.json").write_text(to_json(health))

    (problem,) = measured(case_dir).problems
    assert problem.startswith("run 2: GPU 0")


def test_the_runs_that_the_session_judged_count(case_dir: Path) -> None:
    store_run(case_dir / "run-2b", plan=PLAN, step_time_sec=0.25)
    write_case(case_dir, record=make_record(PLAN, runs=("run-1", "run-2b")))

    assert step_times(measured(case_dir)) == [0.1, 0.25]


def test_a_second_try_that_is_given_stands_for_the_first(case_dir: Path) -> None:
    store_run(case_dir / "run-2b", plan=PLAN, step_time_sec=0.25)
    given = [case_dir / name for name in ("run-1", "run-2", "run-2b", "run-1")]

    assert step_times(measured(*given)) == [0.1, 0.25]
    assert step_times(measured(*given[:2])) == [0.1, 0.2]


@pytest.mark.parametrize("order", [1, -1], ids=["newer-first", "newer-last"])
def test_runs_of_several_sessions_are_one_measurement_under_the_newest_terms(
    tmp_path: Path, case_dir: Path, order: int
) -> None:
    newer = make_record(PLAN, provenance=make_provenance(date="2027-01-01T00:00:00+00:00"))
    other = tmp_path / "later" / PLAN.case
    store_case(other, plan=replace(PLAN, timeout_sec=90.0), times=(0.4,), provenance=newer.provenance)

    run_dirs = [other / "run-1", case_dir / "run-1"]
    stored = load_runs(run_dirs[::order])

    assert stored.record.provenance == newer.provenance
    assert sorted(step_times(measure_stored(stored, framework=TorchFramework()))) == [0.1, 0.4]


def test_runs_of_one_gpu_in_other_hosts_with_that_card_are_of_one_machine(tmp_path: Path) -> None:
    plan = make_plan(timeout_sec=60.0, layouts={"cpu": Layout(gpus=1)})
    card: dict[str, str | int] = {"device": "Test GPU", "memory_gib": 80}
    run_dirs = []
    for number, machine in enumerate((card, {**card, "gpus": 1}, {**card, "gpus": 8, "topology": "NV18"})):
        case_dir = tmp_path / str(number) / plan.case
        store_case(case_dir, plan=plan, machine=machine)
        run_dirs.append(case_dir / "run-1")

    assert len(measured(*run_dirs).runs) == 3


@pytest.mark.parametrize(
    ("changes", "machine", "problem"),
    [
        pytest.param({"seed": 7}, MACHINE, "seed is 7, not the 1234 of", id="plan"),
        pytest.param({}, {"cpu": "another"}, "its machine is not that of", id="machine"),
    ],
)
def test_runs_that_do_not_belong_together_are_not_one_measurement(
    tmp_path: Path, case_dir: Path, changes: dict[str, Any], machine: dict[str, str | int], problem: str
) -> None:
    other = tmp_path / "later" / PLAN.case
    store_case(other, plan=make_plan(**changes), machine=machine)

    with pytest.raises(RecordError, match=rf"later/.*/run-1: {problem}"):
        load_runs([case_dir / "run-1", other / "run-1"])


def test_records_that_the_session_could_not_read_make_the_same_measurement_again(case_dir: Path) -> None:
    tear(case_dir / "run-3" / "steps.jsonl")
    record = _read_case(case_dir)

    with pytest.raises(RecordError, match=r"run-3/steps\.jsonl:8: half a line.*end; its session could read it: copy"):
        measured(case_dir)
    write_case(case_dir, record=replace(record, unreadable="run 3: torn then"))

    assert len(measured(case_dir).runs) == 2
    assert measured(case_dir).problems == ("run 3: torn then",)


def test_runs_whose_case_was_not_finished_stay_invalid(case_dir: Path) -> None:
    record = _read_case(case_dir)

    write_case(case_dir, record=replace(record, unfinished="run 4 failed"))

    assert len(measured(case_dir).runs) == 3
    assert measured(case_dir).problems == ("run 4 failed",)


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        pytest.param("case.json", tear, r"case\.json: not JSON: .*, truncated or corrupt", id="case torn"),
        pytest.param("run-2/plan.json", tear, r"run-2/plan\.json: not JSON: .*, truncated or corrupt", id="plan torn"),
        pytest.param("run-2/result.json", tear, r"run-2/result\.json: not JSON", id="result torn"),
        pytest.param("run-2/plan.json", Path.unlink, r"run-2/plan\.json: cannot be read: No such file", id="no plan"),
        pytest.param(
            "run-2/steps.jsonl", Path.unlink, r"run-2: has no steps\.jsonl; .*copy the folder again", id="no steps"
        ),
        pytest.param("case.json", Path.unlink, r"has no case\.json, .*launch the case again", id="no record"),
    ],
)
def test_a_file_that_can_not_be_trusted_is_named(
    case_dir: Path, name: str, change: Callable[[Path], object], problem: str
) -> None:
    change(case_dir / name)

    with pytest.raises(RecordError, match=problem):
        measured(case_dir)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schema_version": 2}, r"case\.json: \$\.schema_version is 2"),
        ({"terms": {}}, r"case\.json: \$\.terms lacks the key 'tolerances'"),
        ({"run": []}, r"case\.json: \$\.run: unknown key; did you mean runs\?"),
        ({"terms": {"tolerances": {}}}, r"case\.json: \$\.terms: tolerances={} lack tokens_per_sec_per_gpu"),
        ({"terms": {"run_noise_pct": -1.0}}, r"case\.json: \$\.terms: run_noise_pct=-1.0 must be at least 0%"),
        ({"terms": {"alpha": math.nan}}, r"case\.json: \$\.terms\.alpha is NaN; it must be a finite number"),
        ({"case": "other"}, r"run-1: its case\.json is of other on cpu, not of the plan"),
        ({"runs": []}, "no run is named"),
    ],
)
def test_a_record_is_checked_when_it_is_read(case_dir: Path, changes: dict[str, Any], problem: str) -> None:
    path = case_dir / "case.json"
    data = json.loads(path.read_text())
    if terms := changes.get("terms"):
        changes = {"terms": data["terms"] | terms}
    path.write_text(json.dumps(data | changes))

    with pytest.raises(RecordError, match=problem):
        load_case(case_dir)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "case").write_text("a file where the folder should be")

    with pytest.raises(RecordError, match=r"case/case\.json: cannot be written: .*case: File exists"):
        write_case(tmp_path / "case", record=make_record(PLAN))
