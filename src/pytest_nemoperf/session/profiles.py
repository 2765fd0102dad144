"""``--perf-profile``: run judged cases once more under the profiler, and store their profiles with the baselines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_nemoperf.baselines.profile_store import profile_path
from pytest_nemoperf.results.cases import CaseReport, CaseResult
from pytest_nemoperf.runs.profiled import profile_case, store_profile, unprofilable, with_stored_profile
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.updates import UpdateOptions

if TYPE_CHECKING:
    from pytest_nemoperf.launchers.protocol import Launcher
    from pytest_nemoperf.records.provenance import Provenance
    from pytest_nemoperf.session.progress import Progress


def is_profile_due(result: CaseResult, *, updating: UpdateOptions | None) -> bool:
    """Return whether a judged case is profiled: it fails on sound runs, or its profile belongs to a baseline."""
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
        report: Report of the judged case.
        launcher: Starts the ranks.
        run_dir: Directory made for this run.
        root: Root directory that the report's paths are relative to; run_dir lies below it.
        machine: Key of this machine.
        provenance: Date, commit and versions of this session.
        updating: Values of ``--update-baselines``; None if no baseline is stored.
        store_command: Shell command that stores a profile; empty for a case that is never stored.
        progress: Display of the run.
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
    traces = [str(Path(trace).relative_to(root)) for trace in found.traces]
    found = replace(found, traces=tuple(traces))
    if result.is_failure:
        baseline_path = root / result.baseline_path if result.baseline_path else None
        compared = with_stored_profile(found, baseline_path=baseline_path, store_command=store_command)
        report = replace(report, profile=compared)
    if _path_to_store(result, updating=updating):
        report = replace(report, new_profile=found)
    return report


def store_new_profile(
    report: CaseReport, *, root: Path, updating: UpdateOptions | None, progress: Progress
) -> CaseReport:
    """Store the new profile of a case, if it has one; return its report with the profile's path.

    Args:
        report: Report of a case with a written baseline.
        root: Root directory that the report's paths are relative to.
        updating: Values of ``--update-baselines``.
        progress: Display of the profile's path.
    """
    if report.new_profile is None:
        return report
    path = _path_to_store(report.result, updating=updating)
    problem = store_profile(report.new_profile, baseline_path=root / path)
    case = report.result.verdict.case
    if report.new_profile.now is None and unprofilable(report.result.plan):
        return report  # told once for all such cases: unprofiled_lines
    if problem:
        progress.write_line(f"the profile of {case} is not stored: {problem}")
        return report
    stored = str(profile_path(Path(path)))
    progress.write_line(f"the profile of {case} is stored as {stored}")
    return replace(report, stored_profile=stored)


def unprofiled_lines(reports: Iterable[CaseReport]) -> Iterator[str]:
    """Yield a sentence for each reason why profiles that were asked for with baselines can't be, with its cases."""
    cases: dict[str, list[str]] = {}
    for report in reports:
        if report.new_profile is None or report.new_profile.now is not None:
            continue
        if reason := unprofilable(report.result.plan):
            cases.setdefault(reason, []).append(report.result.verdict.case)
    for reason, names in cases.items():
        if len(names) == 1:
            yield f"the profile of {names[0]} is not stored: {reason}"
        else:
            yield f"the profiles of {len(names)} cases are not stored; of each, {reason}"


def _path_to_store(result: CaseResult, *, updating: UpdateOptions | None) -> str:
    """Return the baseline that a case's profile is stored with; empty if it is not.

    An update that has no reason to rewrite a baseline was still asked for the profile.
    """
    if result.stored_path:
        return result.stored_path
    if updating is None or updating.is_new_only or result.verdict.kind is not VerdictKind.PASSED:
        return ""
    return result.baseline_path
