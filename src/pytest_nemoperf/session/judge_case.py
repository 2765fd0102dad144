"""Judge a measured case: verdict, waiver, and the baseline to be stored."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from pytest_nemoperf.baselines.baseline import find_mismatches, from_measurement
from pytest_nemoperf.errors import count_text
from pytest_nemoperf.frameworks.requirements import Installable, untested_version
from pytest_nemoperf.options.settings import Settings
from pytest_nemoperf.results.cases import CaseReport, CaseResult
from pytest_nemoperf.results.ceilings import AtCeiling, at_ceiling
from pytest_nemoperf.runs.storing import BaselineWriter, StoreOutcome
from pytest_nemoperf.session.baseline_verdict import baseline_verdict
from pytest_nemoperf.session.context import Context
from pytest_nemoperf.verdict.comparison import LOCALLY_RECORDED, VerdictKind
from pytest_nemoperf.verdict.waivers import WaiverEffect, apply_waiver

if TYPE_CHECKING:
    from pytest_nemoperf.frameworks.protocol import Framework
    from pytest_nemoperf.session.cases import MeasuredCase
    from pytest_nemoperf.verdict.judge import Verdict

_MAX_DIFFERENCES = 3
_STORING: Final = "--update-baselines"


def judge_case(case: MeasuredCase, *, context: Context, framework: Framework | None = None) -> CaseReport:
    """Judge a measured case and return the report; a baseline to be stored is in it, not yet written.

    Args:
        case: Case with its measurement and the baseline that applies.
        context: Settings and stored baselines of the session.
        framework: Framework of the runs; None for a loop or benchmark of the test process.

    Raises:
        BaselineError: If a stored baseline can't be trusted.
    """
    verdict = _verdict_on(case, context=context)
    notes = [*_version_notes(case, framework=framework), *_trial_notes(verdict, settings=context.settings)]
    verdict = replace(verdict, reasons=(*verdict.reasons, *notes))
    outcome = _store_outcome(case, verdict=verdict, context=context)
    waiver = case.mark.waiver
    if case.ab or context.settings.against == "published":
        waiver = None  # it is of a loss against the stored baseline
    effect = apply_waiver(verdict, waiver=waiver, today=datetime.now(UTC).date(), release=context.settings.release)
    result = CaseResult(
        nodeid=case.mark.nodeid,
        measurement=case.measurement,
        verdict=verdict,
        plan=case.plan,
        baseline_path=context.shown(case.found.path),
        published=None if case.found.baseline is None else case.found.baseline.published,
        is_judged_locally=case.found.is_local,
        stored_path=context.shown(outcome.path),
        is_stored_locally=outcome.is_local,
        storing_note=outcome.note,
        accepted_reason=outcome.accepted_reason,
        is_failure=_is_failure(verdict, outcome=outcome, effect=effect, settings=context.settings),
        waived=effect.waived,
        waiver_note=effect.note,
        has_expired_waiver=effect.is_expired,
        run_dir=context.shown(case.run_dir),
        ab=case.ab,
        confirmations=case.confirmations,
        ceiling=_nearness(case, context=context),
    )
    return CaseReport(
        result=result,
        baseline=case.found.baseline,
        stored=outcome.stored,
        replaced=outcome.replaced,
        rerun_command=context.rerun_command(case.mark.nodeid),
        accept_command=context.accept_command(case.mark.nodeid, kind=verdict.kind),
        environment={**case.provenance.environment(), **case.measurement.environment},
    )


def _nearness(case: MeasuredCase, *, context: Context) -> AtCeiling | None:
    """Return the nearness of a case to this machine's ceilings; None without ranks of it, and for slowed runs."""
    if case.plan is None or case.ab is not None or not case.is_storable or case.measurement.inject_pct:
        return None
    return at_ceiling(case.plan, runs=case.measurement.runs, ceilings=context.ceilings(), machine=context.machine)


def _verdict_on(case: MeasuredCase, *, context: Context) -> Verdict:
    """Return the verdict on a case, with notes on the baseline it rests on."""
    verdict = case.verdict
    if verdict is None:
        verdict = baseline_verdict(case, context=context)
    if case.ab is not None or verdict.kind is VerdictKind.INVALID:
        return verdict
    return replace(
        verdict,
        reasons=(*verdict.reasons, *_stand_in_notes(case, context=context), *context.other_folder_notes(case.found)),
    )


def _version_notes(case: MeasuredCase, *, framework: Framework | None) -> list[str]:
    """Return a note on a framework's version that is older or newer than those it is tested with."""
    if not isinstance(framework, Installable):
        return []
    seen = {**case.provenance.versions, **case.measurement.environment}
    version = seen.get(framework.requirement.distribution, "")
    note = untested_version(framework.requirement, framework=framework.name, version=version)
    return [] if note is None else [note]


def _trial_notes(verdict: Verdict, *, settings: Settings) -> list[str]:
    """Return a note on an option that the reasons recommend and a trial, a session with ``--perf-set``, refuses."""
    if not settings.changes or not any(_STORING in reason for reason in verdict.reasons):
        return []
    return [f"{_STORING} is for a session without --perf-set, which stores no baseline"]


def _stand_in_notes(case: MeasuredCase, *, context: Context) -> list[str]:
    """Return a note on the committed baseline if this machine's own stands in for it."""
    if not case.found.is_local or case.found.baseline is None:
        return []
    committed = context.store.find_committed(case.measurement.case)
    if committed is None:
        return []
    mismatches = find_mismatches(committed, machine=case.machine, workload=case.measurement.workload)
    differences = [mismatch.text for mismatch in mismatches[:_MAX_DIFFERENCES]]
    if len(mismatches) > _MAX_DIFFERENCES:
        differences.append(count_text(len(mismatches) - _MAX_DIFFERENCES, "more difference"))
    recorded = case.found.baseline.provenance.date.partition("T")[0]
    return [
        f"judged by what this machine recorded itself on {recorded}, for the committed baseline does not compare: "
        f"{'; '.join(differences)}"
    ]


def _store_outcome(case: MeasuredCase, *, verdict: Verdict, context: Context) -> StoreOutcome:
    """Return the baseline that the case leaves, or the reason why it leaves none."""
    settings = context.settings
    if (
        settings.against == "published"
        or not case.is_storable
        or verdict.kind is VerdictKind.INVALID
        or case.measurement.inject_pct
    ):
        return StoreOutcome()
    if settings.updating is None and verdict.kind in LOCALLY_RECORDED & settings.fail_on:
        # A local baseline would be used next time, in place of the committed one that the session requires.
        return StoreOutcome()
    new = from_measurement(case.measurement, machine=case.machine, provenance=case.provenance, reason="")
    writer = BaselineWriter(context.store, runs=settings.runs, updating=settings.updating)
    return writer.choose(
        new,
        verdict=verdict,
        found=case.found,
        policy=case.policy,
        is_in_process=case.plan is None,
        is_same_code=case.is_same_code,
    )


def _is_failure(verdict: Verdict, *, outcome: StoreOutcome, effect: WaiverEffect, settings: Settings) -> bool:
    """Return whether the test fails: for its verdict, unless that is accepted, mended or waived."""
    if effect.is_expired:
        return True
    if effect.waived or outcome.accepted_reason:
        return False
    if settings.updating is not None and verdict.kind in LOCALLY_RECORDED:  # the missing baseline is being stored
        return False
    if verdict.kind is VerdictKind.IMPROVED and outcome.path and not outcome.is_local:
        return False
    return verdict.kind in settings.fail_on
