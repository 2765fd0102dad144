"""Whether a run's steps have settled, and how far they scatter."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pytest_nemoperf.expected import expected_of
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.records import StepRecord

MAX_DRIFT_PCT = 25.0


def unsettled(plan: Plan, *, records: Sequence[StepRecord]) -> list[str]:
    """Return a problem if the measured steps of a run have not settled; see settling_problems."""
    measured = [record for record in records if record.step >= plan.warmup_steps]
    return settling_problems(settling_times(measured, has_exact_tokens=expected_of(plan).has_exact_tokens))


def settling_times(measured: Sequence[StepRecord], *, has_exact_tokens: bool) -> list[float]:
    """Return the times of which settling is asked: of steps, scaled to equal tokens where these may differ.

    Responses get shorter or longer while a policy learns; that is no drift of the machine's speed.
    """
    times = [record.step_time_sec for record in measured]
    if has_exact_tokens or not measured:
        return times
    middle = statistics.median(record.tokens for record in measured)
    return [time * middle / record.tokens for time, record in zip(times, measured, strict=True)]


def settling_problems(times: Sequence[float]) -> list[str]:
    """Return a problem if the second half of the steps is apart from the first: warm-up too short, or throttling.

    Apart means that no step of one half is as fast as any step of the other, and their medians differ by more
    than 25%; a single slow step or even noise does not do that.
    """
    half = len(times) // 2
    if half < 2:  # noqa: PLR2004 (one step a half shows no trend)
        return []
    first, second = times[:half], times[-half:]
    before, after = statistics.median(first), statistics.median(second)
    drift = 100.0 * (after - before) / before
    apart = min(first) > max(second) or min(second) > max(first)
    if not apart or abs(drift) <= MAX_DRIFT_PCT:
        return []
    hint = "raise warmup_steps" if drift < 0 else "look for throttling, a leak or other load"
    return [
        f"the steps have not settled: median {before:.4g} s in the first half, {after:.4g} s in the second "
        f"({drift:+.0f}%, allowed {MAX_DRIFT_PCT:.0f}%); {hint}"
    ]


def mad_pct(values: Sequence[float]) -> float:
    """Return the median absolute deviation in percent of the median."""
    middle = statistics.median(values)
    return 100.0 * statistics.median(abs(value - middle) for value in values) / middle
