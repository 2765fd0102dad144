"""Runs of plans by real frameworks in interpreters of their own, beside the native engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_nemoperf.frameworks.protocol import Framework
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.launchers.local import LocalLauncher
from pytest_nemoperf.launchers.protocol import LaunchStatus
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.step import PLAN_FILE, RunOutput
from tests.real_frameworks.build import ENVIRONMENTS


def interpreter(name: str) -> str:
    """Return the interpreter of a framework's environment; fail the test if it is not built."""
    path = ENVIRONMENTS / name / "bin" / "python"
    if not path.exists():
        pytest.fail(f"there is no {path}; build it with: make test-frameworks FRAMEWORKS={name}", pytrace=False)
    return str(path)


def run_plan(plan: Plan, *, framework: Framework, run_dir: Path) -> RunOutput:
    """Run a plan as a session does, without judging it; fail the test if the run fails."""
    run_dir.mkdir(parents=True)
    (run_dir / PLAN_FILE).write_text(to_json(plan), encoding="utf-8")
    launcher = LocalLauncher()
    try:
        result = launcher.launch(
            framework.command(plan, run_dir=run_dir),
            run_dir=run_dir,
            timeout_sec=plan.timeout_sec,
            on_poll=lambda: None,
        )
    finally:
        launcher.close()
    if result.status is not LaunchStatus.OK:
        logs = "\n".join(path.read_text(errors="replace")[-4000:] for path in sorted((run_dir / "logs").glob("*.log")))
        pytest.fail(f"{plan.case}: {result.status}: {result.failures}\n{logs}", pytrace=False)
    return framework.read_output(plan, run_dir=run_dir)


def native_output(plan: Plan, *, run_dir: Path) -> RunOutput:
    """Run the same model, batch and layout by the native engine."""
    return run_plan(replace(plan, framework="torch", python=""), framework=TorchFramework(), run_dir=run_dir)
