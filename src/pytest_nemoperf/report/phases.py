"""Phases of a step beside the baseline's, rounded so that they add up to the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_nemoperf.measure.figures import figure_over_runs, phases_over_runs
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.metrics import STEP_TIME_SEC
from pytest_nemoperf.report.console import QUIET, add_figures, figures_table, indented

if TYPE_CHECKING:
    from rich.console import RenderableType

_MS_PER_SEC = 1e3
_DECIMALS_BELOW_MS = ((1.0, 4), (10.0, 3), (1000.0, 2), (10_000.0, 1))
_MIN_STEP_CHANGE_PCT = 1.0
_MIN_NAMED_SHARE_PCT = 5.0
_GAP = "(gap between medians)"


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseRow:
    """One phase beside the baseline.

    Attributes:
        phase: Its name; for the last row ``step``.
        baseline_ms: Over the baseline's runs, rounded as shown.
        now_ms: Over this session's runs, rounded as shown.
        share_pct: Share of the step's difference; None if the step hardly differs.
    """

    phase: str
    baseline_ms: float
    now_ms: float
    share_pct: float | None

    @property
    def difference_ms(self) -> float:
        """Now minus baseline."""
        return self.now_ms - self.baseline_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTable:
    """The phases of a step, the largest contribution first, and the step they add up to.

    Attributes:
        rows: One per phase.
        step: Their sum.
        decimals: Decimals of a millisecond that carry meaning.
    """

    rows: tuple[PhaseRow, ...]
    step: PhaseRow
    decimals: int


def rank_groups(runs: Sequence[Run]) -> list[str]:
    """Return the names of the groups of ranks that worked beside the training ranks, without repeats."""
    names: list[str] = []
    for run in runs:
        for name in run.groups:
            if name not in names:
                names.append(name)
    return names


def compare_phases(now: Sequence[Run], *, baseline: Sequence[Run], group: str | None = None) -> PhaseTable | None:
    """Return the phases of a step beside the baseline's, or None if one of the two recorded none.

    The median of sums is not the sum of medians: the difference is a row of its own (GAP). All figures are rounded
    before it is computed, so that the printed rows add up to the printed step.

    Args:
        now: Runs of this session.
        baseline: Runs of the baseline.
        group: A group of ranks beside the training ranks; its step is the sum of its phases. None: the training ranks.
    """
    then_phases = phases_over_runs(baseline, group=group)
    now_phases = phases_over_runs(now, group=group)
    if not then_phases or not now_phases:
        return None
    then_step = _step_sec(baseline, group=group)
    now_step = _step_sec(now, group=group)
    decimals = decimals_of(max(then_step, now_step) * _MS_PER_SEC)

    def rounded_ms(seconds: float) -> float:
        return round(seconds * _MS_PER_SEC, decimals)

    total = (rounded_ms(then_step), rounded_ms(now_step))
    rows = []
    then_sum = now_sum = 0.0
    for name in {**then_phases, **now_phases}:
        then_ms = rounded_ms(then_phases.get(name, 0.0))
        now_ms = rounded_ms(now_phases.get(name, 0.0))
        rows.append(_row(name, (then_ms, now_ms), total=total))
        then_sum += then_ms
        now_sum += now_ms
    rows.sort(key=lambda row: row.difference_ms, reverse=total[1] >= total[0])
    then_gap = round(total[0] - then_sum, decimals) + 0.0  # never minus zero
    now_gap = round(total[1] - now_sum, decimals) + 0.0
    if then_gap or now_gap:
        rows.append(_row(_GAP, (then_gap, now_gap), total=total))
    return PhaseTable(rows=tuple(rows), step=_row("step", total, total=total), decimals=decimals)


def phase_table(compared: PhaseTable, *, sides: tuple[str, str], has_shares: bool) -> RenderableType:
    """Return the phases as a table, the step last.

    Args:
        compared: From compare_phases.
        sides: Headings of the two columns of times.
        has_shares: Add a column of each phase's share of the step's difference, if the step differs at all.
    """
    headings = ["phase", *sides, "difference"]
    if has_shares and compared.step.share_pct is not None:
        change = "loss" if compared.step.difference_ms > 0 else "gain"
        headings.append(f"share of the {change}")
    table = figures_table(headings)
    for row in compared.rows:
        style = QUIET if row.phase == _GAP else ""
        add_figures(table, *_cells(row, decimals=compared.decimals)[: len(headings)], style=style)
    add_figures(table, *_cells(compared.step, decimals=compared.decimals)[: len(headings)], style="bold")
    return indented(table)


def loss_sentence(table: PhaseTable, *, step: str = "the step") -> str:
    """Return a sentence with the step's loss or gain and its largest parts; empty if the step hardly differs.

    Parts below a twentieth of it are left out, and those that went the other way.

    Args:
        table: From compare_phases.
        step: Name of the step in the sentence.
    """
    loss = table.step.difference_ms
    if table.step.share_pct is None:
        return ""
    parts = []
    for row in table.rows:
        if row.share_pct is not None and row.share_pct >= _MIN_NAMED_SHARE_PCT:
            parts.append(f"{row.phase} {row.difference_ms:+,.{table.decimals}f} ms ({row.share_pct:.0f}%)")
    word = "slower" if loss > 0 else "faster"
    return f"{step} is {abs(loss):,.{table.decimals}f} ms {word}: {', '.join(parts)}"


def decimals_of(step_ms: float) -> int:
    """Return the decimals of a millisecond that show about four significant digits of a step."""
    for below, decimals in _DECIMALS_BELOW_MS:
        if step_ms < below:
            return decimals
    return 0


def milliseconds_cells(then_ms: float, now_ms: float, *, decimals: int) -> list[str]:
    """Return the cells of two times and of their signed difference."""
    return [f"{then_ms:,.{decimals}f}", f"{now_ms:,.{decimals}f}", f"{now_ms - then_ms:+,.{decimals}f}"]


def _cells(row: PhaseRow, *, decimals: int) -> list[str]:
    cells = [row.phase, *milliseconds_cells(row.baseline_ms, row.now_ms, decimals=decimals)]
    if row.share_pct is not None:
        cells.append(f"{round(row.share_pct)}%")
    return cells


def _row(name: str, column: tuple[float, float], *, total: tuple[float, float]) -> PhaseRow:
    then_ms, now_ms = column
    loss = total[1] - total[0]
    share_pct = None
    if abs(loss) >= _MIN_STEP_CHANGE_PCT / 100.0 * total[0]:
        share_pct = 100.0 * (now_ms - then_ms) / loss
    return PhaseRow(phase=name, baseline_ms=then_ms, now_ms=now_ms, share_pct=share_pct)


def _step_sec(runs: Sequence[Run], *, group: str | None) -> float:
    if group is None:
        measured = figure_over_runs(runs, metric=STEP_TIME_SEC.name)
        if measured is not None:
            return measured
    return sum(phases_over_runs(runs, group=group).values())
