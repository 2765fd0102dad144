"""Folder of a run's checkpoint: refused in words before a launch, removed after it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from pytest_nemoperf.errors import PlanError
from pytest_nemoperf.models.weights import num_parameters
from pytest_nemoperf.runs.checkpoint_folder import (
    check_checkpoint_folder,
    checkpoint_bytes,
    checkpoint_limit_sec,
    own_checkpoint_folder,
)
from tests.builders import make_plan

PLAN = make_plan(extra_metrics=("checkpoint_save_sec", "checkpoint_load_sec"))


def test_a_checkpoint_has_twelve_bytes_for_each_parameter() -> None:
    assert checkpoint_bytes(PLAN) == 12 * num_parameters(PLAN.model)


def test_a_larger_checkpoint_may_take_longer() -> None:
    small = checkpoint_limit_sec(PLAN)

    assert checkpoint_limit_sec(make_plan(model="llama3-8b", extra_metrics=PLAN.extra_metrics)) > small + 100
    assert checkpoint_limit_sec(replace(PLAN, extra_metrics=("checkpoint_save_sec",))) == pytest.approx(small / 2)
    assert checkpoint_limit_sec(make_plan()) == 0


def test_a_folder_must_be_given() -> None:
    with pytest.raises(
        PlanError, match=r"extra_metrics=checkpoint_save_sec, checkpoint_load_sec saves .* --perf-checkpoint-dir=DIR"
    ):
        check_checkpoint_folder(PLAN, folder="")


def test_a_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"there is no folder .*nowhere for its checkpoint; make it"):
        check_checkpoint_folder(PLAN, folder=str(tmp_path / "nowhere"))


def test_a_folder_must_take_files() -> None:
    with pytest.raises(PlanError, match="no checkpoint can be saved in /proc"):
        check_checkpoint_folder(PLAN, folder="/proc")


def test_a_full_disk_is_refused_with_both_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(model="llama3-8b", extra_metrics=PLAN.extra_metrics)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=50 * 2**30))

    with pytest.raises(PlanError, match=r"needs about 98\.7 GiB, and .* has 50 GiB free"):
        check_checkpoint_folder(plan, folder=str(tmp_path))


def test_a_folder_with_space_is_taken_and_left_empty(tmp_path: Path) -> None:
    check_checkpoint_folder(PLAN, folder=str(tmp_path))

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [None, RuntimeError(), KeyboardInterrupt()], ids=["well", "failure", "Ctrl-C"])
def test_a_run_has_a_folder_of_its_own_and_leaves_nothing(tmp_path: Path, error: BaseException | None) -> None:
    (tmp_path / "of others").touch()

    def run() -> None:
        with own_checkpoint_folder(replace(PLAN, checkpoint_dir=str(tmp_path))) as plan:
            own = Path(plan.checkpoint_dir)
            assert own.parent == tmp_path
            (own / "checkpoint").mkdir()
            (own / "checkpoint/__0_0.distcp").write_bytes(b"\0" * 100)
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)):
            run()
    assert [path.name for path in tmp_path.iterdir()] == ["of others"]


def test_a_run_without_a_checkpoint_has_no_folder() -> None:
    plan = make_plan()

    with own_checkpoint_folder(plan) as same:
        assert same is plan
