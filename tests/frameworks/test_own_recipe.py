from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.frameworks.automodel import AutomodelFramework
from pytest_nemoperf.frameworks.configs.checkout import find_checkout
from pytest_nemoperf.frameworks.configs.config_values import ConfigReader
from pytest_nemoperf.frameworks.megatron_lm import MegatronLMFramework
from pytest_nemoperf.frameworks.nemo_rl import NemoRLFramework
from pytest_nemoperf.frameworks.own_recipe import missing_package, own_command, without_config
from tests.builders import make_plan
from tests.frameworks.automodel_files import TRAINING
from tests.frameworks.megatron_files import YAML, write_text
from tests.frameworks.nemo_rl_files import GRPO


def test_a_plan_without_a_file_is_told_what_it_needs() -> None:
    reason = without_config(make_plan(framework="nemo_rl"))

    assert reason == (
        "framework='nemo_rl' runs recipe files of its own, and this plan has none; give framework_config=..., or "
        "framework='torch' for the native engine"
    )


def test_a_checkout_is_the_file_s_before_the_working_directory_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("theirs", "mine"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "run.py").touch()
    monkeypatch.chdir(tmp_path / "mine" / "deep")

    assert find_checkout(tmp_path / "theirs" / "deep" / "x.yaml", marker="run.py") == tmp_path / "theirs"
    assert find_checkout(tmp_path / "x.yaml", marker="run.py") == tmp_path / "mine"
    assert find_checkout(tmp_path / "x.yaml", marker="none.py") is None


def test_a_package_that_is_not_installed_is_asked_for() -> None:
    plan = make_plan(framework="automodel")

    reason = missing_package(plan, module="no_such_package", install="run pip install it")

    assert reason == (
        "framework='automodel' needs no_such_package, which is not installed beside pytest; run pip install it, or "
        "name the interpreter that has it in python= or perf_python"
    )
    assert missing_package(plan, module="json", install="") is None


def test_nothing_is_claimed_of_another_interpreter_s_packages() -> None:
    plan = make_plan(framework="automodel", python="/opt/venv/bin/python")

    assert missing_package(plan, module="no_such_package", install="") is None


def test_a_command_runs_in_its_directory_with_its_interpreter(tmp_path: Path) -> None:
    place = tmp_path / "place"
    run_dir = tmp_path / "run"
    place.mkdir()
    run_dir.mkdir()
    program = "import os, sys; print(os.getcwd(), sys.argv[1:], os.environ['LEVEL'], os.environ['OURS'])"
    plan = make_plan(framework="nemo_rl", env={"LEVEL": "plan"}, python=sys.executable)

    command = own_command(
        plan,
        ["python", "-c", program, "a b", "--x=1"],
        run_dir=run_dir,
        directory=place,
        env={"LEVEL": "own", "OURS": "1"},
        log_format="nemo_rl",
    )

    assert (command.num_processes, command.is_rank) == (1, False)
    shown = subprocess.run(command.argv, capture_output=True, text=True, check=True, env=dict(command.env))
    assert shown.stdout == f"{place} ['a b', '--x=1'] plan 1\n"
    launch = json.loads((run_dir / "launch.json").read_text(encoding="utf-8"))
    assert launch["log_file"] == "{run_dir}/nemo_rl"


def test_a_command_that_stays_is_not_sent_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(framework="automodel", python=sys.executable)

    command = own_command(plan, ["python", "-m", "x"], run_dir=tmp_path, directory=tmp_path, log_format="automodel")

    assert command.argv == (sys.executable, "-m", "x")


@pytest.mark.parametrize(
    ("framework", "name", "base"),
    [
        pytest.param(NemoRLFramework(), "x.yaml", json.dumps(GRPO), id="nemo_rl"),
        pytest.param(AutomodelFramework(), "x.yaml", json.dumps(TRAINING), id="automodel"),
        pytest.param(MegatronLMFramework(), "x.yaml", YAML, id="megatron_lm"),
    ],
)
def test_each_framework_reads_its_file_and_misses_a_log_that_is_not_there(
    framework: Any, name: str, base: str, tmp_path: Path
) -> None:
    path = write_text(tmp_path / name, base)
    plan = make_plan(framework=framework.name, framework_config=str(path))

    assert framework.read_config(path, options={}, env={}).digest
    assert framework.log_format(plan) in framework.log_formats
    with pytest.raises(RecordError, match="the command exited with 0, but there is no"):
        framework.read_output(plan, run_dir=tmp_path)
    assert isinstance(framework, ConfigReader)
