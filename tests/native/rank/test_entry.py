"""Start of a rank: its environment, its plan, and errors in them."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import pytest

from pytest_nemoperf.errors import LaunchError, PlanError, RecordError
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.json_codec import from_json, to_json
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.launchers.protocol import LaunchStatus
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.native.device import available_cores, peak_memory_bytes, reset_peak_memory
from pytest_nemoperf.native.rank.entry import _check_plan, main, read_environment
from pytest_nemoperf.records.step import PLAN_FILE, RESULT_FILE, RankError, RunResult, error_file
from tests.native.tiny import CPU, tiny_plan


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set a launcher's variables for rank 1 of 2, and return the run directory."""
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2"), ("NEMOPERF_RUN_DIR", str(tmp_path))):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    return tmp_path


def test_all_ranks_are_on_this_host_unless_the_launcher_says_otherwise(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_environment().local_world_size == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert read_environment().local_world_size == 1


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "NEMOPERF_RUN_DIR"])
def test_a_rank_without_its_place_says_what_is_missing(
    name: str, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name)

    with pytest.raises(LaunchError, match=f"{name} is not set; ranks are started by a launcher"):
        main()


def test_as_many_ranks_as_the_layout_has() -> None:
    plan = tiny_plan(layouts={"cpu": Layout(gpus=2, dp_shard=2)})

    _check_plan(plan, world_size=2)
    with pytest.raises(PlanError, match="WORLD_SIZE=4 but the layout has gpus=2"):
        _check_plan(plan, world_size=4)


def test_a_rank_that_fails_leaves_its_error_and_no_result(run_dir: Path) -> None:
    (run_dir / PLAN_FILE).write_text(to_json(tiny_plan(layouts={"cpu": Layout(gpus=1)})), encoding="utf-8")

    with pytest.raises(PlanError, match="WORLD_SIZE=2"):
        main()

    left = from_json(RankError, (run_dir / error_file(1)).read_bytes(), subject="error")
    assert left.message.startswith("PlanError: WORLD_SIZE=2 but the layout has gpus=1")
    assert "check_plan" in left.traceback
    assert not (run_dir / RESULT_FILE).exists()


def test_a_torn_plan_is_named(run_dir: Path) -> None:
    (run_dir / PLAN_FILE).write_text('{"case": ', encoding="utf-8")

    with pytest.raises(RecordError, match=r"plan\.json: not JSON"):
        main()

    assert (run_dir / error_file(1)).exists()


def test_peak_memory_counts_from_its_reset() -> None:
    block = bytearray(256 << 20)  # zeroed by the kernel only where it is touched
    block[:: 1 << 12] = b"\x01" * len(block[:: 1 << 12])
    with_block = peak_memory_bytes(CPU)
    del block

    reset_peak_memory(CPU)

    assert with_block - peak_memory_bytes(CPU) > 200 << 20


def test_a_process_has_at_least_one_core() -> None:
    assert available_cores() >= 1


@pytest.mark.ranks
def test_choices_of_another_step_runner_join_the_environment_of_the_run(tmp_path: Path) -> None:
    plan = tiny_plan(layouts={"cpu": Layout(gpus=1)})
    (tmp_path / PLAN_FILE).write_text(to_json(plan), encoding="utf-8")
    command = RankCommand(
        argv=(sys.executable, "-m", "tests.native.rank.choosing"),
        num_processes=1,
        env={"NEMOPERF_RUN_DIR": str(tmp_path), "NEMOPERF_YARDSTICK": "off"},
    )

    with closing(LocalLauncher()) as launcher:
        launched = launcher.launch(command, run_dir=tmp_path, timeout_sec=120.0, on_poll=lambda: None)

    assert launched.status is LaunchStatus.OK
    result = from_json(RunResult, (tmp_path / RESULT_FILE).read_bytes(), subject="result")
    assert result.environment["chosen_by_rank"] == "0"
    assert "torch" in result.environment
