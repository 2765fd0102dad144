"""Machine or code: yardsticks of a measurement's runs compared with those of its baseline. Pure; corrects no figure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.yardstick import Yardstick
from pytest_nemoperf.verdict.sick_devices import PARTS, slow_ranks

_MIN_CHANGE: Final = math.log(1.02)
"""Change of the step, in its logarithm, below which there is nothing to explain."""
_EXPLAINING_SHARE: Final = 0.5
"""Part of the step's change that the yardstick must show to be called its cause: most of it."""
_CONFIDENCE: Final = 0.95
_UNCHANGED_PCT: Final = 1.0
"""A part that changed by less took as long as in the baseline."""
_NO_YARDSTICK: Final = (
    "the baseline was recorded without a yardstick, so nothing tells whether the machine or the code moved; one that "
    "is recorded now has it"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class YardstickChange:
    """Change of the fixed workload's time since the baseline, in logarithms.

    Attributes:
        parts: Change of each part that both have, by field; means over ranks and runs.
        total: Mean of the parts.
        error: Half width of the 95% interval within which the step follows the total, from the scatter between runs;
            None for one run each.
    """

    parts: Mapping[str, float]
    total: float
    error: float | None


def yardstick_sentence(
    now_runs: Sequence[Run], baseline_runs: Sequence[Run], *, loss_pct: float, has_other_libraries: bool
) -> str:
    """Return a sentence that says whether the machine or the code moved, and how much of the change that explains.

    Args:
        now_runs: This session's runs.
        baseline_runs: Runs of the baseline.
        loss_pct: Loss of the case's speed against the baseline, percent; negative for a gain.
        has_other_libraries: torch, its libraries, the driver or the device are others than the baseline's.

    Returns:
        The sentence; empty if the speed is as it was, or these runs have no yardstick.
    """
    if loss_pct >= 100:  # noqa: PLR2004 (percent)
        return ""
    step = -math.log1p(-loss_pct / 100)
    if abs(step) < _MIN_CHANGE or not any(run.yardsticks for run in now_runs):
        return ""
    if not any(run.yardsticks for run in baseline_runs):
        return _NO_YARDSTICK
    change = yardstick_change(now_runs, baseline_runs)
    if change is None:
        return ""
    parts = []
    for name, part in change.parts.items():
        parts.append(f"{PARTS[name]} {_pct(part):+.0f}%")
    facts = (
        f"the fixed workload of the ranks took {_duration(change.total)} than when the baseline was recorded "
        f"({', '.join(parts)}), the step {_duration(step)}"
    )
    if abs(_pct(change.total)) < _UNCHANGED_PCT:
        facts = (
            f"the fixed workload of the ranks took as long as when the baseline was recorded ({', '.join(parts)}), the "
            f"step {_duration(step)}"
        )
    conclusion = _conclusion(change, step=step)
    if has_other_libraries:
        conclusion = (
            "with torch, its libraries, the driver or the device others than then, that does not tell the machine from "
            "them"
        )
    return f"{facts}: {conclusion}{_uneven_note(now_runs, baseline_runs)}"


def yardstick_change(now_runs: Sequence[Run], baseline_runs: Sequence[Run]) -> YardstickChange | None:
    """Return the change of the fixed workload's time since the baseline; None if either has no yardstick."""
    now = [run.yardsticks for run in now_runs if run.yardsticks]
    then = [run.yardsticks for run in baseline_runs if run.yardsticks]
    if not now or not then:
        return None
    names = [name for name in PARTS if _is_in_all([*now, *then], name=name)]
    parts = {}
    for name in names:
        means_now = [_mean_log(ranks, names=[name]) for ranks in now]
        means_then = [_mean_log(ranks, names=[name]) for ranks in then]
        parts[name] = statistics.fmean(means_now) - statistics.fmean(means_then)
    totals_now = [_mean_log(ranks, names=names) for ranks in now]
    totals_then = [_mean_log(ranks, names=names) for ranks in then]
    return YardstickChange(
        parts=parts,
        total=statistics.fmean(totals_now) - statistics.fmean(totals_then),
        error=_error(totals_now, totals_then),
    )


def _is_in_all(runs: Sequence[Sequence[Yardstick]], *, name: str) -> bool:
    return all(getattr(each, name) is not None for ranks in runs for each in ranks)


def _mean_log(ranks: Sequence[Yardstick], *, names: Sequence[str]) -> float:
    """Return the mean logarithm of some parts' times over the ranks of a run."""
    return statistics.fmean(math.log(getattr(each, name)) for each in ranks for name in names)


def _error(now: Sequence[float], then: Sequence[float]) -> float | None:
    """Return the half width of the interval in which the step may differ from the yardstick; None if not known.

    Beside the error of the two means, one more scatter: on a shared 2-core machine, steps of equal code differed from
    session to session by as much more than their yardsticks as launches of one session differ in theirs.
    """
    from scipy.special import stdtrit  # noqa: PLC0415 (a tenth of a second that only a verdict needs)

    num_free = len(now) + len(then) - 2
    if not num_free:
        return None
    squares = 0.0
    for values in (now, then):
        middle = statistics.fmean(values)
        squares += sum((value - middle) ** 2 for value in values)
    deviation = math.sqrt(squares / num_free)
    quantile = float(stdtrit(num_free, 0.5 + _CONFIDENCE / 2))
    return quantile * deviation * math.sqrt(1 + 1 / len(now) + 1 / len(then))


def _conclusion(change: YardstickChange, *, step: float) -> str:
    """Return whether the machine moved, and the share of the step's change that this explains."""
    if change.error is None:
        return "one run each does not tell whether the machine moved"
    effect = "loss" if step > 0 else "gain"
    share = change.total / step
    error_share = change.error / abs(step)
    if share >= _EXPLAINING_SHARE and share > error_share:
        if share >= 1:
            return f"the machine moved, which would explain all of the {effect}"
        return f"the machine moved, which would explain {share:.0%} of the {effect}"
    if share + error_share < _EXPLAINING_SHARE:
        most = max(0.0, share + error_share)
        return f"the machine did not move by as much, and explains at most {most:.0%} of the {effect}"
    return (
        f"the fixed workload itself is known to {_pct(change.error):.0f}% only, which does not tell whether the "
        "machine moved"
    )


def _uneven_note(now_runs: Sequence[Run], baseline_runs: Sequence[Run]) -> str:
    """Return a note on the rank with a yardstick far slower than the others'; empty if there is none."""
    slow = slow_ranks(now_runs, baseline_runs)
    if not slow:
        return ""
    worst = min(slow, key=lambda each: each.of_peers)
    return (
        f"; rank {worst.rank} did its {worst.part} at {worst.of_own:.0%} of its speed in the baseline and at "
        f"{worst.of_peers:.0%} of the other ranks' speed"
    )


def _pct(change: float) -> float:
    return 100 * math.expm1(change)


def _duration(change: float) -> str:
    pct = _pct(change)
    return f"{pct:.0f}% longer" if pct >= 0 else f"{-pct:.0f}% less long"
