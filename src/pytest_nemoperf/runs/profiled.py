"""Run of a case under the profiler: launch it, compare its operators, store them with the baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.baselines.baseline import find_mismatches
from pytest_nemoperf.baselines.profile_store import find_profile, profile_path, write_profile
from pytest_nemoperf.errors import NemoPerfError, RecordError
from pytest_nemoperf.frameworks.torch import TorchFramework
from pytest_nemoperf.json_codec import read_data
from pytest_nemoperf.launchers.protocol import Launcher
from pytest_nemoperf.measure.measurement import workload_of
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.profile import PROFILE_FILE, TRACE_GLOB, CaseProfile, Profile
from pytest_nemoperf.records.provenance import Provenance
from pytest_nemoperf.records.step import Progress
from pytest_nemoperf.runs.execute import run_once

_PRETRAIN_STEPS: Final = 5
_RL_STEPS: Final = 2  # a pass of the model for each token of a response: many times the operators


def unprofilable(plan: Plan | None) -> str:
    """Return the reason why a case can't be profiled; empty if it can."""
    native = TorchFramework().name
    if plan is None:
        return f"it is measured in the test's own process; only ranks of framework {native!r} run torch.profiler"
    if plan.framework != native:
        return f"it runs under framework {plan.framework!r}; only ranks of framework {native!r} run torch.profiler"
    return ""


def profiled(plan: Plan) -> Plan:
    """Return the plan of a case's run under the profiler: the same warm-up steps, then a few profiled ones."""
    most = _PRETRAIN_STEPS if plan.rl is None else _RL_STEPS
    steps = min(plan.steps, most)
    return replace(plan, is_profiled=True, steps=steps, extra_metrics=(), checkpoint_dir="")


def profile_case(
    plan: Plan | None,
    *,
    launcher: Launcher,
    run_dir: Path,
    machine: Mapping[str, str | int],
    provenance: Provenance,
    on_progress: Callable[[Progress | None], None],
) -> CaseProfile:
    """Run a case once more under the profiler.

    A failure is returned in the result, not raised: the verdict is there already, and must not be lost.

    Args:
        plan: Plan of the measured runs; None for a case of the test's own process.
        launcher: Starts the ranks.
        run_dir: Directory made for this run; the traces stay in it.
        machine: Key of this machine.
        provenance: Date, commit and versions of this session.
        on_progress: As for run_once.
    """
    if plan is None or unprofilable(plan):
        return CaseProfile(problem=unprofilable(plan))
    try:
        run_once(
            profiled(plan), framework=TorchFramework(), launcher=launcher, run_dir=run_dir, on_progress=on_progress
        )
        now = _read(run_dir / PROFILE_FILE)
    except (NemoPerfError, OSError) as exc:
        return CaseProfile(problem=f"{str(exc).splitlines()[0]}; see {run_dir}")
    return CaseProfile(
        now=replace(now, machine=machine, workload=workload_of(plan), provenance=provenance),
        traces=tuple(str(path) for path in sorted(run_dir.glob(TRACE_GLOB))),
    )


def with_stored_profile(found: CaseProfile, *, baseline_path: Path | None, store_command: str) -> CaseProfile:
    """Return a case's profile with the one stored beside its baseline, or with the reason why there is none.

    Args:
        found: As profile_case returned it.
        baseline_path: File the case was judged against; None for none.
        store_command: Shell command that stores a profile; empty for a case that is never stored.
    """
    if found.now is None:
        return found
    if baseline_path is None:
        problem = "there is no baseline that a profile could lie beside"
        return replace(found, problem=problem, store_command=store_command)
    try:
        then = find_profile(baseline_path)
    except RecordError as exc:
        return replace(found, problem=str(exc), store_command=store_command)
    if then is None:
        return replace(found, problem="no profile is stored with the baseline", store_command=store_command)
    mismatches = find_mismatches(then, machine=found.now.machine, workload=found.now.workload)
    if mismatches:
        problem = f"{profile_path(baseline_path)}: it is of another {mismatches[0].subject}"
        return replace(found, problem=problem, store_command=store_command)
    return replace(found, then=then)


def store_profile(found: CaseProfile, *, baseline_path: Path) -> str:
    """Store a case's profile beside its baseline; return the problem, empty for none."""
    if found.now is None:
        return found.problem
    try:
        write_profile(baseline_path, profile=found.now)
    except RecordError as exc:
        return str(exc)
    return ""


def _read(path: Path) -> Profile:
    if not path.exists():
        raise RecordError(f"{path}: the ranks left no profile")
    return read_data(Profile, path)
