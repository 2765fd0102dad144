"""Summary at the end of a session: tables of cases, counts, reasons, stored files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.metrics import (
    CALL_SUMMARY,
    JUDGED,
    METRICS,
    PRETRAIN_SUMMARY,
    RL_SUMMARY,
    TFLOPS_PER_SEC_PER_GPU,
    TIME_PER_CALL_SEC,
    Metric,
    format_number,
    format_time,
)
from pytest_nemoperf.report.cells import (
    case_value,
    commit_text,
    deciding_comparison,
    earlier_text,
    elapsed_text,
    signed_percent,
    verdict_word,
)
from pytest_nemoperf.report.console import (
    ALARM,
    QUIET,
    align,
    indented,
    injection_banner,
    section,
    style_of,
    styled,
    to_text,
    unfolded,
)
from pytest_nemoperf.report.resolution import loose_texts
from pytest_nemoperf.report.stored import pruned_parts, stored_parts, unasked_parts
from pytest_nemoperf.report.terminal.ab import ab_parts
from pytest_nemoperf.report.terminal.frameworks import framework_parts
from pytest_nemoperf.report.terminal.rollouts import PHASE_HEADINGS, phase_cells
from pytest_nemoperf.results.cases import CaseReport, CaseResult, SessionResults
from pytest_nemoperf.verdict.comparison import Comparison, VerdictKind

if TYPE_CHECKING:
    from rich.console import RenderableType

_HINTS: Mapping[VerdictKind, str] = {
    VerdictKind.NO_BASELINE: "--update-baselines stores this session's runs",
    VerdictKind.NOT_COMPARABLE: "--update-baselines replaces what is stored",
    VerdictKind.INCONCLUSIVE: "its baseline stays as it is; --perf-accept-regression replaces it",
    VerdictKind.IMPROVED: "the baseline is loose now; --update-baselines keeps the gain",
}

_REPLAY_HINTS: Mapping[VerdictKind, str] = {
    VerdictKind.NO_BASELINE: "a replay stores nothing; --perf-baselines=DIR judges by the baselines of another folder",
}


def render_summary(
    results: SessionResults,
    *,
    reports: Sequence[CaseReport],
    width: int,
    color: bool,
    written: Sequence[str] = (),
) -> str:
    """Return the summary of a session.

    Args:
        results: The session.
        reports: Its cases with their baselines, in the same order.
        width: Columns; only a path may be longer.
        color: Whether to use terminal colours.
        written: Paths of the reports that were written.
    """
    return to_text(_parts(results, reports=reports, width=width, written=written), width=width, color=color)


def _parts(
    results: SessionResults, *, reports: Sequence[CaseReport], width: int, written: Sequence[str]
) -> Iterator[RenderableType]:
    if results.inject_pct:
        yield injection_banner(results.inject_pct, width=width)
    if results.replay_of:
        yield f"replay: runs stored in {results.replay_of}, judged again"
    yield _origin(results)
    if results.git_problem:
        yield indented(f"git can't tell what was measured: {results.git_problem}")
    for headings, cells_of in (
        (_headings(PRETRAIN_SUMMARY), _step_cells),
        (_headings(RL_SUMMARY), _rl_cells),
        (PHASE_HEADINGS, _phase_cells),
        (_headings(CALL_SUMMARY), _call_cells),
    ):
        own = [report for report in reports if cells_of in _tables_of(report.result)]
        if own:
            yield ""
            yield from _table(own, headings=headings, cells_of=cells_of, width=width)
    yield ""
    yield from _counts(results)
    yield from _reasons(results)
    yield from _loose(results.cases)
    yield from ab_parts(results.cases)
    yield from framework_parts(results.by_framework, width=width)
    yield from _not_run(results)
    yield from stored_parts(reports)
    yield from pruned_parts(results.pruned)
    yield from unasked_parts(results.unasked)
    if written:
        yield section("files written")
        yield from map(unfolded, written)
    if results.inject_pct:
        yield ""
        yield injection_banner(results.inject_pct, width=width)


def _origin(results: SessionResults) -> str:
    cases = count_text(len(results.cases), "case")
    took = elapsed_text(results.duration_sec)
    return f"{results.system_title}, {results.provenance.device}: {cases} in {took}, {commit_text(results.provenance)}"


def _tables_of(case: CaseResult) -> tuple[Callable[[CaseReport], list[str]], ...]:
    """Return the functions that make a case's cells in its tables."""
    if any(TIME_PER_CALL_SEC.name in run.metrics for run in case.measurement.runs):
        return (_call_cells,)
    if "rl" in case.measurement.workload:
        return (_rl_cells, _phase_cells)
    return (_step_cells,)


def _headings(metrics: Sequence[Metric]) -> list[str]:
    headings = []
    for metric in metrics:
        headings.append(metric.column or metric.label)
        if _has_delta(metric):
            headings.append("delta")
    return headings


def _figure_cells(case: CaseResult, *, metrics: Sequence[Metric]) -> list[str]:
    cells = []
    for metric in metrics:
        cells.append(_value(case, metric=metric.name))
        if _has_delta(metric):
            cells.append(_delta(case, metric=metric.name))
    return cells


def _has_delta(metric: Metric) -> bool:
    """Return whether a column of changes follows: of judged metrics, but TFLOP/s, which change as tokens/s do."""
    return metric in JUDGED and metric is not TFLOPS_PER_SEC_PER_GPU


def _step_cells(report: CaseReport) -> list[str]:
    return _figure_cells(report.result, metrics=PRETRAIN_SUMMARY)


def _rl_cells(report: CaseReport) -> list[str]:
    return _figure_cells(report.result, metrics=RL_SUMMARY)


def _call_cells(report: CaseReport) -> list[str]:
    return _figure_cells(report.result, metrics=CALL_SUMMARY)


def _phase_cells(report: CaseReport) -> list[str]:
    """Return times by phase, without those of an invalid case or of a baseline that does not compare."""
    case = report.result
    runs: Sequence[Run] = ()
    if case.verdict.kind is not VerdictKind.INVALID:
        runs = case.measurement.runs
    then: Sequence[Run] = ()
    if report.baseline is not None and case.verdict.comparisons:
        then = report.baseline.runs
    return phase_cells(runs, baseline=then)


def _value(case: CaseResult, *, metric: str) -> str:
    value = case_value(case, metric=metric)
    if value is None or case.verdict.kind is VerdictKind.INVALID:
        return "-"
    return format_time(value) if METRICS[metric].unit == "s" else format_number(value)


def _delta(case: CaseResult, *, metric: str) -> str:
    """Return the change that the verdict rests on; against the anchor if only that one has the verdict's kind."""
    own = [comparison for comparison in case.verdict.comparisons if comparison.metric == metric]
    shown = deciding_comparison(own, kind=case.verdict.kind)
    if shown is None:
        return "-"
    delta = signed_percent(shown.delta_pct)
    return f"{delta} anchor" if shown.anchor else delta


def _table(
    reports: Sequence[CaseReport],
    *,
    headings: Sequence[str],
    cells_of: Callable[[CaseReport], list[str]],
    width: int,
) -> Iterator[RenderableType]:
    """Yield one line per case; if that is too wide, the case id above its figures, so that it is never cut."""
    wide = [["verdict", "case", *headings]]
    narrow = [["verdict", *headings]]
    for report in reports:
        word = verdict_word(report.result)
        cells = cells_of(report)
        wide.append([word, report.result.verdict.case, *cells])
        narrow.append([word, *cells])
    head, *lines = align(wide, num_left=2)
    if len(head) <= width:
        yield styled((head, QUIET))
        for line, report in zip(lines, reports, strict=True):
            yield _verdict_line(line, case=report.result)
        return
    head, *lines = align(narrow, num_left=1)
    yield indented(styled((head, QUIET)))
    for line, report in zip(lines, reports, strict=True):
        yield report.result.verdict.case
        yield indented(_verdict_line(line, case=report.result))


def _verdict_line(line: str, *, case: CaseResult) -> RenderableType:
    length = len(verdict_word(case))
    return styled((line[:length], style_of(case.verdict.kind)), line[length:])


def _counts(results: SessionResults) -> Iterator[RenderableType]:
    if not results.cases:
        yield styled((results.why_none or "no case was measured", ALARM))
        return
    counts: Counter[VerdictKind] = Counter()
    num_expired = num_waived = num_local = 0
    for case in results.cases:
        if case.has_expired_waiver:
            num_expired += 1
        else:
            counts[case.verdict.kind] += 1
        num_waived += bool(case.waived)
        num_local += case.is_judged_locally
    words = []
    for kind in VerdictKind:
        if counts[kind]:
            words.append(styled((f"{counts[kind]} {kind}", style_of(kind))))
    if num_expired:
        words.append(styled((f"{num_expired} WAIVER EXPIRED", ALARM)))
    yield styled(", ").join(words)
    if num_waived:
        yield styled((f"{count_text(num_waived, 'loss')} passed, waived by the test", ALARM))
    if results.against == "published":
        num_published = sum(case.published is not None for case in results.cases)
        yield f"{num_published} of {len(results.cases)} judged by a published value; nothing is stored"
    if num_local:
        yield f"{num_local} of {len(results.cases)} judged by this machine's own records, not by committed baselines"


def _reasons(results: SessionResults) -> Iterator[RenderableType]:
    """Yield the cases with the same reasons above these; a failing case has its own report elsewhere."""
    hints = _HINTS
    if results.against == "published":
        hints = {VerdictKind.NO_BASELINE: f"nemoperf show published:{results.system} lists the rows of this system"}
    elif results.replay_of:
        hints = _REPLAY_HINTS
    groups: dict[tuple[VerdictKind, tuple[str, ...]], list[str]] = {}
    for case in results.cases:
        is_plain = case.verdict.kind is VerdictKind.PASSED and not case.had_other_verdicts
        has_reasons = not is_plain or case.verdict.reasons or case.waiver_note
        if has_reasons and not case.is_failure:
            groups.setdefault((case.verdict.kind, _reasons_of(case, hints=hints)), []).append(case.verdict.case)
    for (kind, reasons), ids in groups.items():
        yield ""
        for name in ids:
            yield styled((kind.value, style_of(kind)), f" {name}")
        for reason in reasons:
            yield unfolded(reason) if reason.startswith("https://") else indented(reason)


def _reasons_of(case: CaseResult, *, hints: Mapping[VerdictKind, str]) -> tuple[str, ...]:
    reasons = list(filter(None, (case.waived, case.waiver_note, earlier_text(case))))
    reasons += case.verdict.reasons
    if case.accepted_reason:
        reasons.append(f"accepted: {case.accepted_reason}")
    hint = hints.get(case.verdict.kind)
    if hint and not case.stored_path and not case.measurement.inject_pct and case.ab is None:
        reasons.append(hint)
    return tuple(reasons)


def _loose(cases: Sequence[CaseResult]) -> Iterator[RenderableType]:
    judged: list[Comparison] = []
    for case in cases:
        if case.ab is None:
            judged += [each for each in case.verdict.comparisons if not each.published]
    lines = loose_texts(judged)
    if lines:
        yield section("tolerances that could be tighter")
        yield from map(indented, lines)


def _not_run(results: SessionResults) -> Iterator[RenderableType]:
    if not results.not_run:
        return
    counts = Counter(test.reason for test in results.not_run)
    yield section("not run")
    for reason, number in counts.items():
        yield indented(f"{count_text(number, 'test')}: {reason}")
