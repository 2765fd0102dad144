"""A case's run under the profiler, after its measured runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.frameworks.protocol import Framework
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.launchers.protocol import Launcher
from pytest_nemoperf.profiles import PROFILE_FILE, Profile
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.records import Progress, from_json
from pytest_nemoperf.runner import run_once

_PRETRAIN_STEPS: Final = 5
_RL_STEPS: Final = 2  # a pass of the model for each token of a response: many times the operators


def unprofilable(plan: Plan) -> str:
    """Return why a case can't be profiled; empty if it can."""
    native = TorchFramework().name
    if plan.framework == native:
        return ""
    return f"framework {plan.framework!r} can't be profiled here: only ranks of framework {native!r} run torch.profiler"


def profiled(plan: Plan) -> Plan:
    """Return the plan of a case's run under the profiler: as many steps to warm up, a few after them."""
    steps = min(plan.steps, _PRETRAIN_STEPS if plan.rl is None else _RL_STEPS)
    return replace(plan, is_profiled=True, steps=steps)


def run_profile(
    plan: Plan,
    *,
    framework: Framework,
    launcher: Launcher,
    run_dir: Path,
    on_progress: Callable[[Progress | None], None],
) -> Profile:
    """Run a case once more under the profiler; its records are checked for completeness and otherwise not used.

    Args:
        plan: Of the case, as it was measured.
        framework: Who trains it.
        launcher: Who starts the ranks.
        run_dir: Made for this run; the traces stay in it.
        on_progress: As for run_once.

    Raises:
        LaunchError: If the ranks failed, with or without the profiler to blame.
        RecordError: If they left no sound profile.
    """
    run_once(profiled(plan), framework=framework, launcher=launcher, run_dir=run_dir, on_progress=on_progress)
    path = run_dir / PROFILE_FILE
    try:
        text = path.read_bytes()
    except OSError as exc:
        raise RecordError(f"{path}: the ranks left no profile: {exc.strerror}") from None
    return from_json(Profile, text, subject=str(path))
