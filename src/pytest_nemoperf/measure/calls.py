"""Run of timed calls: of a benchmark test in this process, or of a collective on ranks. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_nemoperf.measure.measurement import Run, round_significant
from pytest_nemoperf.measure.steady_state import mad_pct, num_outliers, num_still_warming, slow_steps_pct


def settled_calls(times: Sequence[float]) -> Sequence[float]:
    """Return the times of the calls that were no longer warming up."""
    return times[num_still_warming(times) :]


def run_of_calls(times: Sequence[float], *, values: Mapping[str, float], drift_pct: float | None) -> Run:
    """Return the run of calls, or of groups of calls.

    Args:
        times: Seconds of each, warm-up included.
        values: Metrics over the settled ones, by name.
        drift_pct: Change of the time from first to last on a restless machine, percent; None for settled calls.
    """
    num_warmup_dropped = num_still_warming(times)
    slow_pct = slow_steps_pct(times, num_dropped=num_warmup_dropped)
    settled = times[num_warmup_dropped:]
    return Run(
        metrics={name: round_significant(value) for name, value in values.items()},
        num_steps=len(settled),
        num_warmup_dropped=num_warmup_dropped,
        num_outliers=num_outliers(settled),
        slow_steps_pct=round_significant(slow_pct, digits=3),
        step_time_mad_pct=round_significant(mad_pct(settled), digits=3),
        drift_pct=drift_pct,
    )
