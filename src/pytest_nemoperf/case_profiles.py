"""``--perf-profile``: which judged cases run once more under the profiler, and what becomes of their profiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_nemoperf.comparison import VerdictKind
from pytest_nemoperf.profilestore import profile_path
from pytest_nemoperf.profiling import profile_case, store_profile, unprofilable, with_stored_profile
from pytest_nemoperf.results import CaseReport, CaseResult
from pytest_nemoperf.settings import UpdateOptions

if TYPE_CHECKING:
    from pytest_nemoperf.launchers.protocol import Launcher
    from pytest_nemoperf.progress import Progress
    from pytest_nemoperf.provenance import Provenance


def is_profile_due(result: CaseResult, *, updating: UpdateOptions | None) -> bool:
    """Tell whether a judged case is profiled: it fails on sound runs, or its profile belongs to a baseline."""
    is_slow = result.is_failure and result.verdict.kind is not VerdictKind.INVALID
    return is_slow or bool(_path_to_store(result, updating=updating))


def profile_report(
    report: CaseReport,
    *,
    launcher: Launcher,
    run_dir: Path,
    root: Path,
    machine: Mapping[str, str | int],
    provenance: Provenance,
    updating: UpdateOptions | None,
    store_command: str,
    progress: Progress,
) -> CaseReport:
    """Profile a case; compare with the profile beside its baseline if it fails, keep one to store if that is due.

    Args:
        report: Of the judged case.
        launcher: Who starts the ranks.
        run_dir: Made for this run.
        root: What the report's paths are relative to; run_dir lies below it.
        machine: Key of this machine.
        provenance: Of this session.
        updating: How baselines are stored; None if none are.
        store_command: Shell command that stores a profile; empty where it would not help.
        progress: Shows what goes on.
    """
    result = report.result
    case = result.verdict.case
    if not unprofilable(result.plan):
        progress.profile(case)
    found = profile_case(
        result.plan,
        launcher=launcher,
        run_dir=run_dir,
        machine=machine,
        provenance=provenance,
        on_progress=progress.step,
    )
    found = replace(found, traces=tuple(str(Path(trace).relative_to(root)) for trace in found.traces))
    if result.is_failure:
        baseline = root / result.baseline_path if result.baseline_path else None
        seen = with_stored_profile(found, baseline_path=baseline, store_command=store_command)
        report = replace(report, profile=seen)
    return replace(report, new_profile=found) if _path_to_store(result, updating=updating) else report


def store_new_profile(
    report: CaseReport, *, root: Path, updating: UpdateOptions | None, progress: Progress
) -> CaseReport:
    """Store the profile that a case has for its baseline, if it has one; return its report with where it is.

    Args:
        report: Of a case whose baseline is written.
        root: What the report's paths are relative to.
        updating: How baselines are stored.
        progress: Is told what becomes of it.
    """
    if report.new_profile is None:
        return report
    path = _path_to_store(report.result, updating=updating)
    problem = store_profile(report.new_profile, baseline_path=root / path)
    stored = "" if problem else str(profile_path(Path(path)))
    where = f"is not stored: {problem}" if problem else f"is stored as {stored}"
    progress.say(f"the profile of {report.result.verdict.case} {where}")
    return replace(report, stored_profile=stored)


def _path_to_store(result: CaseResult, *, updating: UpdateOptions | None) -> str:
    """Return the baseline that a case's profile is stored with; empty if it is not.

    An update that has no reason to rewrite a baseline was still asked for the profile.
    """
    if result.stored_path:
        return result.stored_path
    is_as_before = updating is not None and not updating.is_new_only and result.verdict.kind is VerdictKind.PASSED
    return result.baseline_path if is_as_before else ""
