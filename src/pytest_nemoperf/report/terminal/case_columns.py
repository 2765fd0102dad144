"""Columns of a session's cases: verdicts, figures with their unit in the head, changes, times of phases."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.metrics import (
    ALGORITHM_GIB_PER_SEC,
    BUS_GIB_PER_SEC,
    CALL_GIB_PER_SEC,
    CALL_TFLOPS_PER_SEC,
    JUDGED,
    MFU_PCT,
    PEAK_MEMORY_GIB,
    STEP_TIME_SEC,
    TFLOPS_PER_SEC_PER_GPU,
    TIME_PER_CALL_SEC,
    TOKENS_PER_SEC_PER_GPU,
    Metric,
    format_number,
    time_unit,
)
from pytest_nemoperf.report.cells import case_value, deciding_comparison, signed_percent, verdict_word
from pytest_nemoperf.report.terminal.case_table import CaseColumn
from pytest_nemoperf.report.terminal.rollouts import PHASES, phase_times
from pytest_nemoperf.results.cases import CaseReport, CaseResult
from pytest_nemoperf.verdict.comparison import Comparison, VerdictKind

_NONE: Final = "-"
ANCHOR_MARK: Final = "*"
"""Behind a change against the anchor."""
FIGURE_HEADINGS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        TOKENS_PER_SEC_PER_GPU.name: ("tokens", "/s/GPU"),
        TFLOPS_PER_SEC_PER_GPU.name: ("TFLOP", "/s/GPU"),
        MFU_PCT.name: ("MFU", "%"),
        STEP_TIME_SEC.name: ("step", ""),
        PEAK_MEMORY_GIB.name: ("peak", "GiB"),
        TIME_PER_CALL_SEC.name: ("a call", ""),
        CALL_TFLOPS_PER_SEC.name: ("TFLOP", "/s"),
        CALL_GIB_PER_SEC.name: ("GiB", "/s"),
        ALGORITHM_GIB_PER_SEC.name: ("algorithm", "GiB/s"),
        BUS_GIB_PER_SEC.name: ("bus", "GiB/s"),
    }
)
"""Two lines above each metric; of times the unit follows from the figures."""
FIGURE_RANKS: Final[Mapping[str, int]] = MappingProxyType(
    {
        PEAK_MEMORY_GIB.name: 1,
        TFLOPS_PER_SEC_PER_GPU.name: 2,
        STEP_TIME_SEC.name: 3,
        MFU_PCT.name: 4,
        CALL_TFLOPS_PER_SEC.name: 1,
        CALL_GIB_PER_SEC.name: 1,
        BUS_GIB_PER_SEC.name: 1,
        ALGORITHM_GIB_PER_SEC.name: 2,
    }
)
"""Importance of a metric's columns, see CaseColumn; the others are always shown."""


_CEILING_RANK: Final = 5


def verdict_column(cases: Sequence[CaseResult]) -> CaseColumn:
    """Return the column of verdicts."""
    return CaseColumn(heading=("", "verdict"), cells=tuple(map(verdict_word, cases)), is_text=True)


def figure_columns(cases: Sequence[CaseResult], *, metrics: Sequence[Metric]) -> list[CaseColumn]:
    """Return the columns of metrics, of those that any case has, and of the changes that were judged.

    Args:
        cases: One a row.
        metrics: Metrics in their order; the first one has a column in any case.
    """
    columns: list[CaseColumn] = []
    for metric in metrics:
        values = [_value(case, metric=metric) for case in cases]
        changes = [_change(case, metric=metric) for case in cases]
        rank = 0 if _is_deciding(cases, metric=metric) else FIGURE_RANKS.get(metric.name, 0)
        if metric is STEP_TIME_SEC:  # behind the MFU
            columns += _ceiling_columns(cases)
        if metric is not metrics[0] and all(value is None for value in values):
            continue
        heading, cells = _figures(values, metric=metric)
        columns.append(CaseColumn(heading=heading, cells=cells, rank=rank))
        if set(changes) != {_NONE}:
            if any(text.endswith(ANCHOR_MARK) for text in changes):
                changes = [text if text.endswith(ANCHOR_MARK) else f"{text} " for text in changes]
            columns.append(CaseColumn(heading=("", "change"), cells=tuple(changes), rank=rank))
    return columns


def phase_columns(reports: Sequence[CaseReport]) -> tuple[list[str], list[CaseColumn]]:
    """Return the case id of each row of a table of phases of reinforcement learning, and its columns.

    Phases without time on either side have no row; nor have invalid cases. Changes are against a baseline that
    compares.
    """
    rows: list[str] = []
    phases: list[str] = []
    now: list[float | None] = []
    changes: list[str] = []
    for report in reports:
        case = report.result
        if case.verdict.kind is VerdictKind.INVALID:
            continue
        then: Sequence[Run] = ()
        if report.baseline is not None and case.verdict.comparisons:
            then = report.baseline.runs
        after = phase_times(case.measurement.runs)
        before = phase_times(then)
        for phase in PHASES:
            seconds = after.get(phase, 0.0)
            earlier = before.get(phase, 0.0)
            if seconds or earlier:
                rows.append(case.verdict.case)
                phases.append(phase)
                now.append(seconds or None)
                changes.append(signed_percent(100.0 * (seconds - earlier) / earlier) if earlier else _NONE)
    heading, cells = _figures(now, metric=STEP_TIME_SEC)
    columns = [
        CaseColumn(heading=("", "phase"), cells=tuple(phases), is_text=True),
        CaseColumn(heading=("", heading[1]), cells=cells),
    ]
    if set(changes) - {_NONE}:
        columns.append(CaseColumn(heading=("", "change"), cells=tuple(changes)))
    return rows, columns


def _ceiling_columns(cases: Sequence[CaseResult]) -> Iterator[CaseColumn]:
    """Yield columns of the nearness to the machine's ceilings, of those that any case has."""
    products = [None if case.ceiling is None else case.ceiling.products_pct for case in cases]
    steps = [None if case.ceiling is None else case.ceiling.step_pct for case in cases]
    for heading, values in ((("GEMM", "%"), products), (("ceiling", "%"), steps)):
        if any(value is not None for value in values):
            cells = tuple(_NONE if value is None else format_number(value) for value in values)
            yield CaseColumn(heading=heading, cells=cells, rank=_CEILING_RANK)


def _value(case: CaseResult, *, metric: Metric) -> float | None:
    if case.verdict.kind is VerdictKind.INVALID:
        return None
    return case_value(case, metric=metric.name)


def _figures(values: Sequence[float | None], *, metric: Metric) -> tuple[tuple[str, str], tuple[str, ...]]:
    """Return heading and cells; times are all in the unit of their median."""
    heading = FIGURE_HEADINGS[metric.name]
    size = 1.0
    if metric.unit == "s":
        known = [value for value in values if value]
        size, unit = time_unit(statistics.median(known) if known else 1.0)
        heading = (heading[0], unit)
    cells = []
    for value in values:
        cells.append(_NONE if value is None else format_number(value / size, digits=metric.digits))
    return heading, tuple(cells)


def _change(case: CaseResult, *, metric: Metric) -> str:
    """Return the change that the verdict rests on; against the anchor if only that one has the verdict's kind."""
    if metric not in JUDGED or metric is TFLOPS_PER_SEC_PER_GPU:  # which changes as tokens/s do
        return _NONE
    shown = _shown_comparison(case, metric=metric)
    if shown is None:
        return _NONE
    return f"{signed_percent(shown.delta_pct)}{ANCHOR_MARK if shown.anchor else ''}"


def _shown_comparison(case: CaseResult, *, metric: Metric) -> Comparison | None:
    own = [comparison for comparison in case.verdict.comparisons if comparison.metric == metric.name]
    return deciding_comparison(own, kind=case.verdict.kind)


def _is_deciding(cases: Sequence[CaseResult], *, metric: Metric) -> bool:
    """Return True for a metric that a verdict other than PASSED rests on, in any of the cases."""
    for case in cases:
        shown = _shown_comparison(case, metric=metric)
        if shown is not None and shown.kind is case.verdict.kind is not VerdictKind.PASSED:
            return metric is not TFLOPS_PER_SEC_PER_GPU
    return False
