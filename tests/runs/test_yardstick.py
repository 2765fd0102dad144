"""Launches of the yardstick around runs of other frameworks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pytest_nemoperf.errors import LaunchError, RecordError
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.launchers.protocol import LaunchResult, LaunchStatus
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.records.yardstick import RUN_YARDSTICKS_FILE, YARDSTICK_FILE, RunYardsticks, Yardstick
from pytest_nemoperf.runs.yardstick import YardstickLaunches, read_yardsticks, write_yardsticks
from tests.builders import make_plan

PLAN = make_plan(framework="command", command=("train",), layouts={"cpu": Layout(gpus=2, dp_shard=2)})
TIMES = (Yardstick(matmul_sec=1.0, copy_sec=2.0, all_reduce_sec=3.0), Yardstick(matmul_sec=1.0, copy_sec=2.0))


@dataclass
class YardstickLauncher:
    """Launcher whose ranks leave a text as their yardsticks.

    Attributes:
        text: What rank 0 writes; None for nothing.
        status: Of each launch.
        error: Raised in place of a launch; None for none.
        launched: Commands of the launches.
    """

    text: str | None = field(default_factory=lambda: to_json(TIMES))
    status: LaunchStatus = LaunchStatus.OK
    error: Exception | None = None
    launched: list[RankCommand] = field(default_factory=list)

    def launch(
        self, command: RankCommand, *, run_dir: Path, timeout_sec: float, on_poll: Callable[[], None]
    ) -> LaunchResult:
        assert timeout_sec > 0
        on_poll()
        self.launched.append(command)
        if self.error is not None:
            raise self.error
        log = run_dir / "rank0.log"
        log.write_text("no device\n")
        if self.text is not None:
            (run_dir / YARDSTICK_FILE).write_text(self.text)
        return LaunchResult(status=self.status, failures=(), logs=(log,))

    def close(self) -> None:
        pass


@pytest.fixture
def said() -> list[str]:
    """Sentences shown to the user."""
    return []


def measure(launches: YardstickLaunches, folder: Path, *, num_nodes: int = 1, **changes: object) -> object:
    plan = replace(PLAN, num_nodes=num_nodes, **changes)  # type: ignore[arg-type]  # fields of a plan
    return launches.measure(plan, run_dir=folder, on_poll=lambda: None)


def test_as_many_ranks_as_the_plan_has_time_it_through_the_launcher(tmp_path: Path, said: list[str]) -> None:
    launcher = YardstickLauncher()

    yardsticks = measure(YardstickLaunches(launcher, report=said.append), tmp_path / "before")

    assert yardsticks == TIMES
    (command,) = launcher.launched
    assert command.num_processes == 2
    assert command.entrypoint == "pytest_nemoperf.native.rank.yardstick_entry:main"
    assert said == []


def test_of_a_recipes_variables_only_those_count_that_choose_devices(tmp_path: Path, said: list[str]) -> None:
    launcher = YardstickLauncher()
    variables = {"CUDA_VISIBLE_DEVICES": "3", "NCCL_ALGO": "Ring"}

    measure(YardstickLaunches(launcher, report=said.append), tmp_path / "before", env=variables)

    assert launcher.launched[0].env == {"CUDA_VISIBLE_DEVICES": "3"}


def test_ranks_of_the_native_engine_need_no_launch(tmp_path: Path, said: list[str]) -> None:
    launcher = YardstickLauncher()

    assert measure(YardstickLaunches(launcher, report=said.append), tmp_path / "before", framework="torch") == ()

    assert (launcher.launched, said) == ([], [])


def test_a_case_of_several_nodes_has_none_which_is_said_once(tmp_path: Path, said: list[str]) -> None:
    launcher = YardstickLauncher()
    launches = YardstickLaunches(launcher, report=said.append)

    assert [measure(launches, tmp_path / name, num_nodes=2) for name in "ab"] == [(), ()]

    assert launcher.launched == []
    (sentence,) = said
    assert "a yardstick is timed on one node" in sentence


@pytest.mark.parametrize(
    ("launcher", "why"),
    [
        pytest.param(YardstickLauncher(status=LaunchStatus.FAILED), "its ranks failed; the log *no device", id="fails"),
        pytest.param(YardstickLauncher(status=LaunchStatus.TIMED_OUT), "were not done in time", id="hangs"),
        pytest.param(YardstickLauncher(error=LaunchError("no helper")), "no helper", id="does not start"),
        pytest.param(YardstickLauncher(text=None), YARDSTICK_FILE, id="leaves nothing"),
        pytest.param(YardstickLauncher(text='[{"matmul_sec": '), "not JSON", id="is torn"),
    ],
)
def test_a_launch_that_fails_spoils_no_run_and_is_not_tried_again(
    launcher: YardstickLauncher, why: str, tmp_path: Path, said: list[str]
) -> None:
    launches = YardstickLaunches(launcher, report=said.append)

    assert [measure(launches, tmp_path / name) for name in "ab"] == [(), ()]

    assert len(launcher.launched) == 1
    (sentence,) = said
    for part in why.split("*"):
        assert part in sentence
    assert "--perf-yardstick=off" in sentence


def test_yardsticks_around_a_run_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_yardsticks(tmp_path) == RunYardsticks()

    write_yardsticks(tmp_path, before=TIMES, after=TIMES[:1])

    assert read_yardsticks(tmp_path) == RunYardsticks(before=TIMES, after=TIMES[:1])


def test_a_torn_file_of_yardsticks_is_named(tmp_path: Path) -> None:
    (tmp_path / RUN_YARDSTICKS_FILE).write_text('{"before": ')

    with pytest.raises(RecordError, match=r"yardsticks\.json: not JSON"):
        read_yardsticks(tmp_path)
