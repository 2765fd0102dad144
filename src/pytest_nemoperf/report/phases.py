"""Where a step's time went: phases beside the baseline's, in figures that add up to the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_nemoperf.measure import Run, median_over_runs, median_phases
from pytest_nemoperf.metrics import STEP_TIME_SEC

_MS_PER_SEC = 1e3
_DECIMALS_BELOW_MS = ((1.0, 4), (10.0, 3), (1000.0, 2), (10_000.0, 1))
_SHARED_FROM_PCT = 1.0
_NAMED_FROM_PCT = 5.0
GAP = "(gap between medians)"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseRow:
    """One phase beside the baseline.

    Attributes:
        phase: Its name; for the last row ``step``.
        baseline_ms: Median over the baseline's runs, rounded as shown.
        now_ms: Median over this session's runs, rounded as shown.
        share_pct: Share of the step's difference; None if the step hardly differs.
    """

    phase: str
    baseline_ms: float
    now_ms: float
    share_pct: float | None

    @property
    def difference_ms(self) -> float:
        """What the phase takes longer now; negative if it takes less."""
        return self.now_ms - self.baseline_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTable:
    """The phases of a step, the largest contribution first, and the step they add up to.

    Attributes:
        rows: One a phase.
        step: Their sum.
        decimals: Decimals of a millisecond that carry meaning.
    """

    rows: tuple[PhaseRow, ...]
    step: PhaseRow
    decimals: int


def compare_phases(now: Sequence[Run], *, baseline: Sequence[Run], group: str | None = None) -> PhaseTable | None:
    """Return the phases of a step beside the baseline's, or None if one of the two recorded none.

    Of a group of ranks that works beside the training ranks, the step is the sum of its phases.
    A median of sums is not the sum of medians: what is missing to the median step is a row of its own,
    and the figures are rounded before it is computed, so that a reader's own sum comes out right.
    """
    then_phases, now_phases = median_phases(baseline, group=group), median_phases(now, group=group)
    if not then_phases or not now_phases:
        return None
    then_step, now_step = _step_sec(baseline, group=group), _step_sec(now, group=group)
    decimals = decimals_of(max(then_step, now_step) * _MS_PER_SEC)

    def rounded_ms(seconds: float) -> float:
        return round(seconds * _MS_PER_SEC, decimals)

    columns = {
        name: (rounded_ms(then_phases.get(name, 0.0)), rounded_ms(now_phases.get(name, 0.0)))
        for name in {**then_phases, **now_phases}
    }
    total = (rounded_ms(then_step), rounded_ms(now_step))
    gap = [round(total[side] - sum(column[side] for column in columns.values()), decimals) for side in (0, 1)]
    if any(gap):
        columns[GAP] = (gap[0] + 0.0, gap[1] + 0.0)  # never minus zero
    loss = total[1] - total[0]
    rows = [_row(name, then=then, now=now_, total=total) for name, (then, now_) in columns.items()]
    rows.sort(key=lambda row: (row.phase == GAP, -row.difference_ms if loss >= 0 else row.difference_ms))
    return PhaseTable(rows=tuple(rows), step=_row("step", then=total[0], now=total[1], total=total), decimals=decimals)


def loss_sentence(table: PhaseTable, *, step: str = "the step") -> str:
    """Return in one sentence where a step's loss, or gain, went, the largest part first; empty if there is hardly one.

    Parts below a twentieth of it are left out, and those that went the other way.

    Args:
        table: From compare_phases.
        step: What the table is of.
    """
    loss = table.step.difference_ms
    if table.step.share_pct is None:
        return ""
    parts = [
        f"{row.phase} {row.difference_ms:+,.{table.decimals}f} ms ({row.share_pct:.0f}%)"
        for row in table.rows
        if row.share_pct is not None and row.share_pct >= _NAMED_FROM_PCT
    ]
    word = "slower" if loss > 0 else "faster"
    return f"{step} is {abs(loss):,.{table.decimals}f} ms {word}: {', '.join(parts)}"


def _row(name: str, *, then: float, now: float, total: tuple[float, float]) -> PhaseRow:
    loss = total[1] - total[0]
    is_shared = abs(loss) >= _SHARED_FROM_PCT / 100.0 * total[0]
    return PhaseRow(
        phase=name,
        baseline_ms=then,
        now_ms=now,
        share_pct=100.0 * (now - then) / loss if is_shared else None,
    )


def _step_sec(runs: Sequence[Run], *, group: str | None) -> float:
    measured = None if group is not None else median_over_runs(runs, metric=STEP_TIME_SEC.name)
    return sum(median_phases(runs, group=group).values()) if measured is None else measured


def decimals_of(step_ms: float) -> int:
    """Four significant digits or so of the step; the last one is already noise."""
    return next((decimals for below, decimals in _DECIMALS_BELOW_MS if step_ms < below), 0)
