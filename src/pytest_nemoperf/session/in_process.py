"""Cases of the test process itself: loops and benchmarks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_nemoperf.baselines.store import StoredBaseline
from pytest_nemoperf.errors import UnsupportedError
from pytest_nemoperf.recipes.case_kind import kind_of
from pytest_nemoperf.records.machine_key import num_gpus_of
from pytest_nemoperf.session.baseline_verdict import judged_by_baseline
from pytest_nemoperf.session.cases import MeasuredCase

if TYPE_CHECKING:
    from pytest_nemoperf.measure.measurement import Measurement
    from pytest_nemoperf.options.markers import PerfMark
    from pytest_nemoperf.session.confirm import Confirmer
    from pytest_nemoperf.session.context import Context
    from pytest_nemoperf.session.planning import Planner


def measured_in_process(
    measurement: Measurement, *, mark: PerfMark, context: Context, planner: Planner
) -> MeasuredCase:
    """Return the case of a loop or benchmark, before its baseline is looked up.

    Raises:
        UnsupportedError: If the session compares two revisions.
    """
    if context.settings.ab is not None:
        raise UnsupportedError(
            f"{measurement.case} was measured in this process, where code can't be swapped; "
            "leave it out of a session with --perf-ab"
        )
    return MeasuredCase(
        mark=mark,
        measurement=measurement,
        machine=context.machine_of(num_gpus_of(measurement.workload)),
        provenance=context.provenance,
        policy=replace(
            planner.policy(mark, kind=kind_of(measurement.workload)), max_runs=len(measurement.runs) or 1, min_runs=1
        ),
        found=StoredBaseline(baseline=None, path=""),
        is_storable=context.settings.replay_dir is None,
    )


def judge_in_process(case: MeasuredCase, *, context: Context, confirmer: Confirmer) -> MeasuredCase:
    """Judge a loop or benchmark by its baseline, and confirm that; its runs are measured once a session.

    Raises:
        BaselineError: If a stored baseline can't be trusted.
    """
    asked = case.policy
    found = context.baselines.find(case.measurement.case, workload=case.measurement.workload, plan=None)
    case = replace(case, found=found, policy=confirmer.policy(asked, baseline=found.baseline))
    case = judged_by_baseline(case, context=context)
    compared = confirmer.compare(case)
    confirmed = confirmer.confirm(case, compared=compared)
    if confirmer.is_left_to_stored_evidence(confirmed, compared=compared):
        case = judged_by_baseline(replace(case, policy=asked), context=context)
        confirmed = confirmer.confirm(case, compared=compared)
    return replace(confirmed, is_same_code=confirmer.is_same_code(case))
