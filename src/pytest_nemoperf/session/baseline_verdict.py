"""Verdict on a measured case by its stored baseline alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_nemoperf.session.cases import not_judged_text
from pytest_nemoperf.verdict.judge import judge

if TYPE_CHECKING:
    from pytest_nemoperf.session.cases import MeasuredCase
    from pytest_nemoperf.session.context import Context
    from pytest_nemoperf.verdict.judge import Verdict


def baseline_verdict(case: MeasuredCase, *, context: Context) -> Verdict:
    """Return the verdict on a case beside the baseline that applies to it."""
    return judge(
        case.measurement,
        baseline=case.found.baseline,
        machine=case.machine,
        policy=case.policy,
        looked_in=context.baselines_shown,
        why_none=case.found.why_none,
    )


def judged_by_baseline(case: MeasuredCase, *, context: Context) -> MeasuredCase:
    """Return a case with the verdict of its stored baseline."""
    return replace(case, verdict=baseline_verdict(case, context=context))


def unjudged(case: MeasuredCase, *, problem: str, context: Context) -> MeasuredCase:
    """Return a measured case as INVALID, for a problem that has nothing to do with its numbers."""
    problems = (not_judged_text(case.measurement.runs, reason=problem), *case.measurement.problems)
    measurement = replace(case.measurement, problems=problems)
    return judged_by_baseline(replace(case, measurement=measurement), context=context)
