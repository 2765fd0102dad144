"""Cases against stored baselines: launched until the verdict is clear, judged, and kept where that is due."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_nemoperf.baseline import from_measurement
from pytest_nemoperf.comparison import LOCALLY_RECORDED, VerdictKind, VerdictPolicy
from pytest_nemoperf.context import Context
from pytest_nemoperf.holding import wants_more_runs
from pytest_nemoperf.keeping import BaselineWriter, StoreOutcome
from pytest_nemoperf.launches import Launches
from pytest_nemoperf.measure import Measurement, workload_of
from pytest_nemoperf.replay import CaseRecord, write_case
from pytest_nemoperf.results import CaseReport, CaseResult
from pytest_nemoperf.verdict import judge
from pytest_nemoperf.waivers import Waiver, rule_on

if TYPE_CHECKING:
    from pytest_nemoperf.frameworks.protocol import Framework
    from pytest_nemoperf.progress import Progress
    from pytest_nemoperf.recipe import Plan
    from pytest_nemoperf.store import StoredBaseline
    from pytest_nemoperf.verdict import Verdict

_MAX_DIFFERENCES = 3
_MAX_RECORDED_RUNS = 15  # an update that can't hold its tolerance by then says so beside the file


def launch_case(
    plan: Plan,
    *,
    context: Context,
    launches: Launches,
    framework: Framework,
    runs: int,
    policy: VerdictPolicy,
    waiver: Waiver | None,
    progress: Progress,
) -> Measurement:
    """Launch a plan until a verdict is reached or a baseline is complete, and return what was measured.

    Args:
        plan: What to launch.
        context: Of the session.
        launches: Launches it.
        framework: Who trains it.
        runs: Launches that make a baseline.
        policy: Tolerances and error rates.
        waiver: Of the test, to be kept with the runs.
        progress: Shows what goes on.

    Raises:
        BaselineError: If a stored baseline can't be trusted; nothing is launched then.
        LaunchError: If ranks failed, hung or were killed.
        RecordError: If the runs can't be stored.
    """
    settings = context.settings
    baseline = context.store.find(plan.case, workload=workload_of(plan)).baseline
    limit = max(runs, policy.max_runs)
    if settings.updating is not None:
        limit = max(limit, _MAX_RECORDED_RUNS)
    is_accepted = settings.updating is not None and settings.updating.is_accepted

    def is_enough(measurement: Measurement) -> bool:
        kind = judge(measurement, baseline=baseline, machine=context.machine, policy=policy).kind
        num_runs = len(measurement.runs)
        if kind is VerdictKind.INVALID or (kind is VerdictKind.REGRESSED and not is_accepted):
            return True  # more launches would be refused as well
        if kind is VerdictKind.INCONCLUSIVE and num_runs < policy.max_runs:
            return False
        if settings.updating is None and kind not in LOCALLY_RECORDED:
            return True
        if num_runs < runs:
            return False
        is_complete = settings.updating is None or not wants_more_runs(measurement.runs, policy=policy)
        return is_complete or num_runs >= limit

    launched = launches.until(is_enough, plan=plan, framework=framework, limit=limit, progress=progress)
    record = CaseRecord(
        case=plan.case,
        system=plan.system,
        machine=context.machine,
        provenance=context.provenance,
        terms=policy,
        fail_on=tuple(sorted(settings.fail_on)),
        runs=launched.folders,
        unreadable=launched.unreadable,
        waiver=waiver.arguments if waiver else {},
        release=settings.release,
    )
    write_case(launches.case_dir(plan.case), record=record)
    return launched.measurement


def judge_case(
    measurement: Measurement,
    *,
    context: Context,
    plan: Plan | None,
    run_dir: Path | None,
    policy: VerdictPolicy,
    nodeid: str,
    waiver: Waiver | None,
) -> CaseReport:
    """Judge a measurement and return the report; what is to be stored is in it, and not yet written.

    Args:
        measurement: What was measured.
        context: Of the session.
        plan: How it ran; None for what this process measured itself.
        run_dir: Where its runs are; None if nowhere.
        policy: Tolerances and error rates.
        nodeid: The test that asks.
        waiver: Of the test.

    Raises:
        BaselineError: If a stored baseline can't be trusted.
    """
    settings = context.settings
    machine, provenance = context.origin(measurement.case)
    found = replace(context.store, machine=machine).find(measurement.case, workload=measurement.workload)
    if plan is None:
        policy = replace(policy, max_runs=len(measurement.runs) or 1)  # what this process measures, it measures once
    verdict = judge(
        measurement, baseline=found.baseline, machine=machine, policy=policy, looked_in=context.baselines_shown
    )
    if verdict.kind is not VerdictKind.INVALID:
        stand_in = _stand_in_notes(measurement, found=found, context=context, policy=policy)
        verdict = replace(verdict, reasons=(*verdict.reasons, *stand_in, *context.where_looked(found)))
    kept = StoreOutcome()
    is_sound = verdict.kind is not VerdictKind.INVALID and not measurement.inject_pct
    # A record of this machine would only wait to stand in for the committed baseline that is demanded.
    is_recorded = settings.updating is not None or verdict.kind not in LOCALLY_RECORDED & settings.fail_on
    if is_sound and is_recorded and context.replay is None:
        new = from_measurement(measurement, machine=machine, provenance=provenance, reason="")
        keeper = BaselineWriter(context.store, runs=settings.runs, updating=settings.updating)
        kept = keeper.keep(new, verdict=verdict, found=found, policy=policy, is_in_process=plan is None)
    shown = context.shown
    result = CaseResult(
        nodeid=nodeid,
        measurement=measurement,
        verdict=verdict,
        plan=plan,
        baseline_path=shown(found.path) if found.path else "",
        is_judged_locally=found.is_local,
        stored_path=shown(kept.path) if kept.path else "",
        is_stored_locally=kept.is_local,
        storing_note=kept.note,
        accepted_reason=kept.accepted_reason,
        run_dir=shown(run_dir) if run_dir else "",
    )
    return CaseReport(
        result=_ruled(result, verdict=verdict, waiver=waiver, context=context),
        baseline=found.baseline,
        stored=kept.stored,
        replaced=kept.replaced,
        rerun_command=context.rerun_command(nodeid),
        accept_command=context.accept_command(nodeid, kind=verdict.kind),
        environment={**provenance.environment(), **measurement.environment},
    )


def _stand_in_notes(
    measurement: Measurement, *, found: StoredBaseline, context: Context, policy: VerdictPolicy
) -> list[str]:
    """Return why the committed baseline does not count where this machine's own record stands in for it."""
    committed = context.store.find_committed(measurement.case) if found.is_local else None
    if committed is None or found.baseline is None:
        return []
    refused = judge(measurement, baseline=committed, machine=context.machine, policy=policy)
    differences = list(refused.reasons[:_MAX_DIFFERENCES])
    if len(refused.reasons) > _MAX_DIFFERENCES:
        differences.append(f"{len(refused.reasons) - _MAX_DIFFERENCES} more differences")
    recorded = found.baseline.provenance.date.partition("T")[0]
    return [
        f"judged by what this machine recorded itself on {recorded}, for the committed baseline does not compare: "
        f"{'; '.join(differences)}"
    ]


def _ruled(result: CaseResult, *, verdict: Verdict, waiver: Waiver | None, context: Context) -> CaseResult:
    """Return the result with whether its test fails: for its verdict, unless that is accepted, mended or waived."""
    settings = context.settings
    ruling = rule_on(verdict, waiver=waiver, today=datetime.now(UTC).date(), release=settings.release)
    is_mended = settings.updating is not None and verdict.kind in LOCALLY_RECORDED  # what was missing is being stored
    is_kept = verdict.kind is VerdictKind.IMPROVED and result.stored_path and not result.is_stored_locally
    passes = result.accepted_reason or is_mended or is_kept or ruling.waived
    return replace(
        result,
        is_failure=ruling.is_expired or (verdict.kind in settings.fail_on and not passes),
        waived=ruling.waived,
        waiver_note=ruling.note,
        has_expired_waiver=ruling.is_expired,
    )
