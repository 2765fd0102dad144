from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_nemoperf.errors import RecipeError, RecordError
from pytest_nemoperf.frameworks import automodel, requirements
from pytest_nemoperf.frameworks.automodel import AutomodelFramework
from pytest_nemoperf.frameworks.configs.automodel import BENCHMARK as BENCHMARK_RECIPE
from pytest_nemoperf.frameworks.configs.yaml_file import load_yaml
from pytest_nemoperf.frameworks.plans.automodel import plan_config
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.models.huggingface.export import huggingface_config
from tests.builders import make_plan
from tests.frameworks.automodel_files import BENCHMARK, TRAINING
from tests.frameworks.nemo_rl_files import write_file

FRAMEWORK = AutomodelFramework()


def words_of(path: Path, *, run_dir: Path, **changes: Any) -> list[str]:
    """Return the words of a launch after its interpreter."""
    run_dir.mkdir(exist_ok=True)
    values = {"steps": 10, "warmup_steps": 3, "layouts": {"cpu": Layout(gpus=4, dp_shard=4)}, **changes}
    plan = make_plan(framework="automodel", framework_config=str(path), **values)
    command = FRAMEWORK.command(plan, run_dir=run_dir)
    assert command.argv[0] == sys.executable
    assert command.env["WANDB_MODE"] == "disabled"
    return list(command.argv[1:])


def test_the_command_line_runs_with_steps_validation_and_checkpoints_of_its_own(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.yaml", TRAINING, {"validation_dataset": {"a": 1}, "validation_dataset_math": {}})
    run_dir = tmp_path / "run"

    words = words_of(path, run_dir=run_dir, framework_options={"--distributed.tp_size": 1, "+note": None})

    assert words == [
        "-m",
        "nemo_automodel.cli.app",
        str(path),
        "--nproc-per-node",
        "4",
        "--step_scheduler.max_steps=13",
        "--step_scheduler.val_every_steps=None",
        "--checkpoint.enabled=False",
        f"--checkpoint.checkpoint_dir={run_dir}/checkpoints",
        "--validation_dataset=None",
        "--validation_dataset_math=None",
        "--distributed.tp_size=1",
        "--note=None",
    ]


def test_a_benchmark_warms_up_as_long_as_the_plan(tmp_path: Path) -> None:
    words = words_of(write_file(tmp_path / "x.yaml", BENCHMARK), run_dir=tmp_path / "run")

    assert "--benchmark.warmup_steps=3" in words


def test_what_a_run_overrides_is_no_option(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.yaml", BENCHMARK, {"validation_dataset": {"a": 1}})

    for word in words_of(path, run_dir=tmp_path / "run")[5:]:
        name = word.partition("=")[0]
        with pytest.raises(RecipeError, match=f"each run sets {name.lstrip('-')} itself"):
            FRAMEWORK.read_config(path, options={name: 1}, env={})


def test_the_log_of_the_training_is_the_output(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.yaml", TRAINING)
    plan = make_plan(framework="automodel", framework_config=str(path), steps=4, warmup_steps=2)
    FRAMEWORK.command(plan, run_dir=tmp_path)
    log = tmp_path / "checkpoints" / "training.jsonl"
    log.parent.mkdir()
    tokens = plan.tokens_per_step
    lines = [
        {"step": step, "num_tokens_per_step": tokens, "tps": tokens / 0.5, "timestamp": f"2026-01-01T00:00:0{step}"}
        for step in range(6)
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    records = FRAMEWORK.read_output(plan, run_dir=tmp_path).records

    assert [record.step_time_sec for record in records] == pytest.approx([0.5] * 6)


def test_several_processes_of_a_benchmark_print_their_steps(tmp_path: Path) -> None:
    path = write_file(tmp_path / "x.yaml", BENCHMARK)
    plan = make_plan(framework="automodel", framework_config=str(path), layouts={"cpu": Layout(gpus=4, dp_shard=4)})
    FRAMEWORK.command(plan, run_dir=tmp_path)
    assert "checkpoints" not in (tmp_path / "launch.json").read_text(encoding="utf-8")

    one = replace(plan, layout=Layout(gpus=1))
    FRAMEWORK.command(one, run_dir=tmp_path)
    assert "training.jsonl" in (tmp_path / "launch.json").read_text(encoding="utf-8")
    with pytest.raises(RecordError, match=r"training\.jsonl"):
        FRAMEWORK.read_output(one, run_dir=tmp_path)


class OnCPU(AutomodelFramework):
    """The framework, let to run plans on a CPU."""

    devices = ("cpu",)


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Let an interpreter have these distributions."""
    found = {"pytest-nemoperf": importlib.metadata.version("pytest-nemoperf"), **versions}
    for module in (requirements, automodel):
        monkeypatch.setattr(module, "installed_versions", lambda _python: found)


def test_a_plan_runs_by_a_recipe_file_that_is_made_of_it(tmp_path: Path) -> None:
    plan = make_plan(framework="automodel", layouts={"cpu": Layout(gpus=2, tp=2)}, env={"NCCL_DEBUG": "INFO"})

    command = FRAMEWORK.command(plan, run_dir=tmp_path)

    path = tmp_path / "automodel.yaml"
    assert command.argv == (sys.executable, "-m", "nemo_automodel.cli.app", str(path), "--nproc-per-node", "2")
    assert (command.num_processes, command.is_rank) == (1, False)
    assert command.env["NEMOPERF_RUN_DIR"] == str(tmp_path)
    assert command.env["NEMO_ENABLE_USER_MODULES"] == "1"
    assert command.env["PET_STANDALONE"] == "1"
    assert command.env["NCCL_DEBUG"] == "INFO"
    assert load_yaml(path) == plan_config(plan, run_dir=tmp_path)
    model = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert model == huggingface_config(plan.model, max_positions=plan.seq_len)
    assert "training.jsonl" in (tmp_path / "launch.json").read_text(encoding="utf-8")


def test_a_plan_of_the_benchmark_recipe_prints_its_steps(tmp_path: Path) -> None:
    plan = make_plan(framework="automodel", framework_options={"recipe": BENCHMARK_RECIPE})

    assert FRAMEWORK.log_format(plan) == "automodel_benchmark"
    assert FRAMEWORK.log_file(plan) == ""


def test_a_plan_needs_a_gpu() -> None:
    reason = str(FRAMEWORK.unsupported(make_plan(framework="automodel")))

    assert reason.startswith("NeMo Automodel has no CPU path, and cpu is one; use framework='torch'")


def test_a_plan_that_no_file_can_say_is_refused() -> None:
    plan = make_plan(framework="automodel", precision="nvfp4")

    assert str(OnCPU().unsupported(plan)).startswith("precision=nvfp4: ")


def test_what_a_plan_run_needs_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(framework="automodel")

    install(monkeypatch)
    assert "needs nemo-automodel, which is not installed" in str(OnCPU().unsupported(plan))
    install(monkeypatch, **{"nemo-automodel": "0.7.0", "triton": "3.9.0"})
    assert "is half installed: nemo-automodel needs triton>=3.6.0,<3.9, and" in str(OnCPU().unsupported(plan))
    monkeypatch.setattr("sys.executable", "/opt/my env/bin/python")
    assert "mend it with: '/opt/my env/bin/python' -m pip install --no-deps" in str(OnCPU().unsupported(plan))
    install(monkeypatch, **{"nemo-automodel": "0.7.0", "triton": "3.6.0"})
    assert OnCPU().unsupported(plan) is None


def test_the_benchmark_recipe_needs_wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(framework="automodel", framework_options={"recipe": BENCHMARK_RECIPE})

    install(monkeypatch, **{"nemo-automodel": "0.7.0", "triton": "3.6.0"})
    assert "imports wandb, which is not installed in" in str(OnCPU().unsupported(plan))
    monkeypatch.setattr("sys.executable", "/opt/my env/bin/python")
    assert "install it with: '/opt/my env/bin/python' -m pip install wandb" in str(OnCPU().unsupported(plan))
    install(monkeypatch, **{"nemo-automodel": "0.7.0", "triton": "3.6.0", "wandb": "0.31.0"})
    assert OnCPU().unsupported(plan) is None


def test_what_it_needs_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    path = write_file(tmp_path / "x.yaml", TRAINING)
    plan = make_plan(framework="automodel", framework_config=str(path))

    assert "install it with: pip install 'nemo-automodel[all]', or name" in str(FRAMEWORK.unsupported(plan))
    assert FRAMEWORK.unsupported(replace(plan, python="/opt/venv/bin/python")) is None
