"""Launches of collectives: their numbers, their tries, and the reason of one that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import LaunchError, RecordError
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.json_codec import read_data, to_json
from pytest_nemoperf.launchers.protocol import LaunchResult, LaunchStatus, RankExit
from pytest_nemoperf.records.collective import (
    CALLS_FILE,
    COLLECTIVE_FILE,
    Collective,
    CollectiveCalls,
    make_collective,
)
from pytest_nemoperf.records.step import RankError, error_file
from pytest_nemoperf.runs.collective import CollectiveLaunches, launch_collective, measured_calls

STEADY = (0.004,) * 20
DRIFTING = tuple(0.004 * 1.05**number for number in range(40))


def all_reduce(**changes: Any) -> Collective:
    values: dict[str, Any] = {"num_gpus": 4, "size_mib": 64, "dtype": "fp32", "device": "cpu", "timeout_sec": 9.0}
    return make_collective("all_reduce", **{**values, **changes})


@dataclass
class CallsLauncher:
    """Launcher whose rank 0 leaves these times, one tuple a launch; the last one for all that follow."""

    times: Sequence[tuple[float, ...]] = (STEADY,)
    status: LaunchStatus = LaunchStatus.OK
    error: str = ""
    launched: list[Path] = field(default_factory=list)

    def launch(
        self, command: RankCommand, *, run_dir: Path, timeout_sec: float, on_poll: Callable[[], None]
    ) -> LaunchResult:
        assert timeout_sec == 9.0
        assert command.num_processes == read_data(Collective, run_dir / COLLECTIVE_FILE).num_gpus
        on_poll()
        times = self.times[min(len(self.launched), len(self.times) - 1)]
        self.launched.append(run_dir)
        log = run_dir / "rank0.log"
        log.write_text("the last words\n")
        failures: tuple[RankExit, ...] = ()
        if self.status is LaunchStatus.FAILED:
            failures = (RankExit(rank=0, exit_code=-9),)
        if self.error:
            error = RankError(rank=0, time_sec=1.0, message=self.error, traceback="Traceback\n")
            (run_dir / error_file(0)).write_text(to_json(error))
        if times:
            calls = CollectiveCalls(times_sec=times, calls_per_group=2, environment={"torch": "2"})
            (run_dir / CALLS_FILE).write_text(to_json(calls))
        return LaunchResult(status=self.status, failures=failures, logs=(log,))

    def close(self) -> None:
        pass


def launches(launcher: CallsLauncher, *, root: Path, said: list[str] | None = None) -> CollectiveLaunches:
    report = (said if said is not None else []).append
    return CollectiveLaunches(launcher=launcher, root=root, on_poll=lambda: None, report=report, is_watched=False)


def test_bandwidths_are_those_of_nccl_tests() -> None:
    calls = CollectiveCalls(times_sec=STEADY, calls_per_group=1)

    run = measured_calls(all_reduce(), calls=calls, health=None).run

    assert run is not None
    assert run.metrics == {"time_per_call_sec": 0.004, "algorithm_gib_per_sec": 15.625, "bus_gib_per_sec": 23.4375}


def test_a_measurement_has_a_run_a_launch(tmp_path: Path) -> None:
    launcher = CallsLauncher()

    measurement = launches(launcher, root=tmp_path).measure(all_reduce(), system="cpu", num_runs=3)

    assert [path.name for path in launcher.launched] == ["run-1", "run-2", "run-3"]
    assert len(measurement.runs) == 3
    assert measurement.case == "collective-all_reduce-1n4g-fp32-64mib"
    assert measurement.workload == all_reduce().workload
    assert measurement.environment == {"torch": "2"}
    assert not measurement.problems


def test_a_launch_that_has_not_settled_is_dropped_and_launched_again(tmp_path: Path) -> None:
    launcher = CallsLauncher(times=(DRIFTING, STEADY))
    said: list[str] = []

    measurement = launches(launcher, root=tmp_path, said=said).measure(all_reduce(), system="cpu", num_runs=1)

    assert [path.name for path in launcher.launched] == ["run-1", "run-1b"]
    assert not measurement.problems
    assert said[0].startswith("run 1 of collective-all_reduce-1n4g-fp32-64mib is dropped and launched again: ")


def test_calls_that_never_settle_make_the_case_invalid(tmp_path: Path) -> None:
    launcher = CallsLauncher(times=(DRIFTING,))

    measurement = launches(launcher, root=tmp_path).measure(all_reduce(), system="cpu", num_runs=1)

    assert len(launcher.launched) == 3
    assert "so in 3 of as many tries" in measurement.problems[0]


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        (
            CallsLauncher(status=LaunchStatus.FAILED, error="RuntimeError: no link"),
            "rank 0 of .* failed: RuntimeError: no",
        ),
        (CallsLauncher(status=LaunchStatus.FAILED), r"rank 0 of .* ended with -9; its log .* ends with:\n.*last words"),
        (CallsLauncher(status=LaunchStatus.TIMED_OUT), "timed out after 9 s; .* raise --perf-timeout"),
    ],
    ids=["error", "killed", "hung"],
)
def test_a_failed_launch_says_why(launcher: CallsLauncher, message: str, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=message):
        launch_collective(all_reduce(), launcher=launcher, run_dir=tmp_path / "run", on_poll=lambda: None)


def test_ranks_that_leave_no_times_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=CALLS_FILE):
        launch_collective(all_reduce(), launcher=CallsLauncher(times=((),)), run_dir=tmp_path, on_poll=lambda: None)
