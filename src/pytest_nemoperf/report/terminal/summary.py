"""Summary at the end of a session: tables of cases, counts, reasons, stored files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.records.metrics import CALL_SUMMARY, PRETRAIN_SUMMARY, RL_SUMMARY, TIME_PER_CALL_SEC, Metric
from pytest_nemoperf.report.case_names import names_within, short_names
from pytest_nemoperf.report.ceilings import ceiling_sentences
from pytest_nemoperf.report.cells import commit_text, elapsed_text, verdict_word
from pytest_nemoperf.report.console import (
    ALARM,
    QUIET,
    indented,
    injection_banner,
    section,
    style_of,
    styled,
    to_text,
    unfolded,
    whole_lines,
)
from pytest_nemoperf.report.resolution import loose_texts
from pytest_nemoperf.report.stored import pruned_parts, stored_parts, unasked_parts
from pytest_nemoperf.report.terminal.ab import ab_parts
from pytest_nemoperf.report.terminal.case_columns import ANCHOR_MARK, figure_columns, phase_columns, verdict_column
from pytest_nemoperf.report.terminal.case_table import case_table
from pytest_nemoperf.report.terminal.frameworks import framework_parts
from pytest_nemoperf.report.terminal.launches import launch_parts
from pytest_nemoperf.report.terminal.reasons import reason_parts
from pytest_nemoperf.results.cases import CaseReport, CaseResult, SessionResults
from pytest_nemoperf.verdict.comparison import Comparison, VerdictKind

if TYPE_CHECKING:
    from rich.console import RenderableType

_BESIDE_NAME = 20
"""Columns for a verdict before a name that is too long for the terminal."""
_MIN_NAME = 20
_CHANGE_MEANING = "change from {}: + is better for tokens/s, - for time and memory"
_ANCHOR_MEANING = f"{ANCHOR_MARK} change from the baseline's anchor"


def render_summary(
    results: SessionResults,
    *,
    reports: Sequence[CaseReport],
    width: int,
    color: bool,
    written: Sequence[str] = (),
    has_ids: bool = False,
) -> str:
    """Return the summary of a session.

    Args:
        results: The session.
        reports: Its cases with their baselines, in the same order.
        width: Columns; only a path may be longer.
        color: Whether to use terminal colours.
        written: Paths of the reports that were written.
        has_ids: Add the full id of each case.
    """
    parts = _parts(results, reports=reports, width=width, written=written, has_ids=has_ids)
    return to_text(parts, width=width, color=color)


def _parts(
    results: SessionResults, *, reports: Sequence[CaseReport], width: int, written: Sequence[str], has_ids: bool
) -> Iterator[RenderableType]:
    names = short_names((case.verdict.case, case.nodeid) for case in results.cases)
    names = names_within(names, width=max(width - _BESIDE_NAME, _MIN_NAME))
    if results.inject_pct:
        yield injection_banner(results.inject_pct, width=width)
    if results.replay_of:
        yield f"replay: runs stored in {results.replay_of}, judged again"
    yield _origin(results)
    if results.git_problem:
        yield indented(f"git can't tell what was measured: {results.git_problem}")
    yield from _tables(reports, names=names, width=width)
    yield ""
    yield from _counts(results)
    yield from reason_parts(results, names=names, width=width)
    yield from _ceilings(results.cases, names=names)
    yield from launch_parts(results.cases, names=names)
    yield from _loose(results.cases)
    yield from ab_parts(results.cases, names=names)
    yield from framework_parts(results.by_framework, width=width)
    yield from _not_run(results)
    if has_ids:
        yield section("case ids")
        for case in names:
            yield unfolded(case if names[case] == case else f"{names[case]}: {case}")
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


def _tables(reports: Sequence[CaseReport], *, names: Mapping[str, str], width: int) -> Iterator[RenderableType]:
    """Yield a table of each kind of case with one line a case, the phases of reinforcement learning, and notes."""
    kinds: dict[tuple[Metric, ...], list[CaseReport]] = {}
    tables: tuple[tuple[Metric, ...], ...] = (PRETRAIN_SUMMARY, RL_SUMMARY, CALL_SUMMARY)
    for metrics in tables:
        kinds[metrics] = [report for report in reports if _metrics_of(report.result) is metrics]
    has_changes = False
    for metrics, own in kinds.items():
        if own:
            yield ""
            cases = [report.result for report in own]
            yield from _case_lines(cases, names=names, metrics=metrics, width=width)
            has_changes |= any(case.verdict.comparisons for case in cases)
        if metrics is RL_SUMMARY:
            yield from _phase_lines(own, names=names, width=width)
    if has_changes:
        yield styled((_CHANGE_MEANING.format(_other_side(reports)), QUIET))
    for report in reports:
        if any(each.anchor and each.kind is report.result.verdict.kind for each in report.result.verdict.comparisons):
            yield styled((_ANCHOR_MEANING, QUIET))
            return


def _other_side(reports: Sequence[CaseReport]) -> str:
    """Return the name of the other side of the changes."""
    if any(report.result.ab is not None for report in reports):
        return "old"
    if any(report.result.published is not None for report in reports):
        return "the published value"
    return "the baseline"


def _metrics_of(case: CaseResult) -> tuple[Metric, ...]:
    if any(TIME_PER_CALL_SEC.name in run.metrics for run in case.measurement.runs):
        return CALL_SUMMARY
    if "rl" in case.measurement.workload:
        return RL_SUMMARY
    return PRETRAIN_SUMMARY


def _case_lines(
    cases: Sequence[CaseResult], *, names: Mapping[str, str], metrics: Sequence[Metric], width: int
) -> Iterator[RenderableType]:
    ids = [case.verdict.case for case in cases]
    columns = [verdict_column(cases), *figure_columns(cases, metrics=metrics)]
    table = case_table(ids, names=names, columns=columns, width=width)
    yield from [styled((line, QUIET)) for line in table.head]
    start = table.name_width
    for case, row in zip(cases, table.rows, strict=True):
        end = start + len(verdict_word(case))
        yield whole_lines([(row[:start], ""), (row[start:end], style_of(case.verdict.kind)), (f"{row[end:]}\n", "")])


def _phase_lines(reports: Sequence[CaseReport], *, names: Mapping[str, str], width: int) -> Iterator[RenderableType]:
    rows, columns = phase_columns(reports)
    if rows:
        table = case_table(rows, names=names, columns=columns, width=width)
        yield ""
        yield from [styled((line, QUIET)) for line in table.head]
        yield whole_lines([(f"{row}\n", "") for row in table.rows])


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


def _ceilings(cases: Sequence[CaseResult], *, names: Mapping[str, str]) -> Iterator[RenderableType]:
    """Yield the sentences on each case that has ceilings; the columns of a narrow terminal leave them out."""
    near = [case for case in cases if case.ceiling is not None and case.ceiling.products is not None]
    if not near:
        return
    yield section("beside the ceilings of this machine")
    for case in near:
        for sentence in ceiling_sentences(case):
            yield indented(f"{names[case.verdict.case]}: {sentence}")


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
