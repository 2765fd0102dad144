"""The report of a failing perf test: figures, phases, spread, suspects, commands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.frameworks.titles import framework_title
from pytest_nemoperf.records.fingerprint import Significance
from pytest_nemoperf.report.ceilings import ceiling_sentences
from pytest_nemoperf.report.cells import commit_text, figures_text, injected_mark
from pytest_nemoperf.report.console import (
    ALARM,
    QUIET,
    add_figures,
    figures_table,
    headline,
    indented,
    injection_banner,
    section,
    style_of,
    styled,
    to_text,
    unfolded,
)
from pytest_nemoperf.report.launch_figures import TITLE, launch_figures, unknown_figures
from pytest_nemoperf.report.phases import compare_phases, phase_table, rank_groups
from pytest_nemoperf.report.terminal.ab import beside_parts, render_ab
from pytest_nemoperf.report.terminal.commands import command_lines
from pytest_nemoperf.report.terminal.comparisons import comparison_parts, resolution_parts
from pytest_nemoperf.report.terminal.logs import log_parts
from pytest_nemoperf.report.terminal.profile import profile_parts
from pytest_nemoperf.report.terminal.rollouts import compare_rollouts
from pytest_nemoperf.report.terminal.spread import compare_spread, unusual_steps
from pytest_nemoperf.report.terminal.suspects import DecidingBaseline, changed_since, deciding_baseline, explanations
from pytest_nemoperf.results.cases import CaseReport
from pytest_nemoperf.verdict.comparison import VerdictKind

if TYPE_CHECKING:
    from rich.console import RenderableType

_STORABLE = frozenset(VerdictKind) - {VerdictKind.INVALID, VerdictKind.PASSED}


def render_failure(report: CaseReport, *, width: int, color: bool) -> str:
    """Return the report of a case that fails its test.

    Args:
        report: The case, its baseline, its environment.
        width: Columns; only a path may be longer.
        color: Whether to use terminal colours.
    """
    if report.result.ab is not None:
        return render_ab(report, ab=report.result.ab, width=width, color=color)
    return to_text(_parts(report, width=width), width=width, color=color)


def _parts(report: CaseReport, *, width: int) -> Iterator[RenderableType]:
    inject_pct = report.result.measurement.inject_pct
    yield _headline(report)
    if inject_pct:
        yield injection_banner(inject_pct, width=width)
    yield from _reasons(report)
    page = report.result.published
    baseline = None if page is not None else deciding_baseline(report)  # a page prints nothing else to compare
    if report.result.verdict.comparisons:
        if baseline is not None:
            yield from explanations(report, baseline=baseline)
        yield ""
        yield from comparison_parts(report.result.verdict.comparisons, width=width)
        yield from resolution_parts(report.result.verdict.comparisons, width=width)
        yield from beside_parts(report.result.confirmations)
    yield from _ceilings(report)
    if baseline is not None and report.result.verdict.kind is not VerdictKind.NOT_COMPARABLE:
        yield from _time_by_phase(report, baseline=baseline)
        yield from _spread(report, baseline=baseline)
    if report.profile is not None:
        origin = report.baseline.provenance if report.baseline is not None else None
        yield from profile_parts(report.profile, baseline=origin, width=width)
    yield from _launch_figures(report)
    if baseline is not None:
        yield from _rollouts(report, baseline=baseline)
        yield from _suspects(report, baseline=baseline)
        yield from _origin(report, baseline=baseline)
    if page is not None:
        yield section("published value")
        title = framework_title(page.framework)
        yield indented(f"row {page.row} of {page.title}, run in {title}; one value, without spread")
        yield unfolded(page.place)
    yield from _next_steps(report, width=width)
    if inject_pct:
        yield injection_banner(inject_pct, width=width)


def _headline(report: CaseReport) -> RenderableType:
    """Return the first line, the only one that pytest's short summary shows."""
    verdict = report.result.verdict
    mark = (injected_mark(report.result.measurement.inject_pct), ALARM)
    kind = (verdict.kind.value, style_of(verdict.kind))
    if report.result.has_expired_waiver:
        kind = (f"WAIVER EXPIRED ({verdict.kind})", ALARM)
    return headline(mark, kind, verdict.case)


def _reasons(report: CaseReport) -> Iterator[RenderableType]:
    verdict = report.result.verdict
    if report.result.waiver_note:
        yield report.result.waiver_note
    for reason in verdict.reasons:
        if report.result.published is None or reason != report.result.published.place:  # which stands below
            yield reason
    if verdict.kind is VerdictKind.IMPROVED and report.result.published is None:
        yield "the baseline is loose now: a loss of what was gained would pass"
    if verdict.kind is VerdictKind.NO_BASELINE:
        yield f"measured: {figures_text(report.result.measurement.runs)}"


def _ceilings(report: CaseReport) -> Iterator[RenderableType]:
    sentences = list(ceiling_sentences(report.result))
    if sentences:
        yield section("ceilings of this machine")
        yield from map(indented, sentences)


def _time_by_phase(report: CaseReport, *, baseline: DecidingBaseline) -> Iterator[RenderableType]:
    runs = report.result.measurement.runs
    titles: dict[str | None, str] = {None: "where the step's time went (ms, slowest rank)"}
    for name in rank_groups(runs):
        titles[name] = f"where the time of the {name} ranks went (ms, slowest of them)"
    for group, title in titles.items():
        compared = compare_phases(runs, baseline=baseline.runs, group=group)
        if compared is not None:
            yield section(title)
            yield phase_table(compared, sides=(baseline.word, "now"), has_shares=True)


def _rollouts(report: CaseReport, *, baseline: DecidingBaseline) -> Iterator[RenderableType]:
    judged = {comparison.metric for comparison in report.result.verdict.comparisons}
    rows = compare_rollouts(report.result.measurement.runs, baseline=baseline.runs, judged=judged)
    if not rows:
        return
    yield section("generation and training (shown, not judged)")
    table = figures_table(("figure", baseline.word, "now", "delta"))
    for row in rows:
        add_figures(table, *row)
    yield indented(table)


def _launch_figures(report: CaseReport) -> Iterator[RenderableType]:
    runs = report.result.measurement.runs
    figures = launch_figures(runs)
    if figures:
        yield section(TITLE)
        yield from map(indented, figures)
        yield from [indented(styled((reason, QUIET))) for reason in unknown_figures(runs)]


def _spread(report: CaseReport, *, baseline: DecidingBaseline) -> Iterator[RenderableType]:
    runs = report.result.measurement.runs
    if not runs:
        return
    yield section(f"spread ({count_text(len(runs), 'run')} now, {len(baseline.runs):,} in the {baseline.word})")
    table = figures_table(("times apart", baseline.word, "now"))
    for row in compare_spread(runs, baseline=baseline.runs):
        add_figures(table, *row)
    yield indented(table)
    for name, then_steps, now_steps in unusual_steps(runs, baseline=baseline.runs):
        yield indented(f"steps {name}: {now_steps} now, {then_steps} in the {baseline.word}")


def _suspects(report: CaseReport, *, baseline: DecidingBaseline) -> Iterator[RenderableType]:
    """Yield the changes of the environment: known to affect speed first, then the others in one dim line."""
    suspects = []
    rest = []
    for difference in changed_since(report, baseline=baseline):
        text = f"{difference.name}: {difference.then} -> {difference.now}"
        if difference.tier is Significance.REST:
            rest.append(text)
        else:
            suspects.append(text)
    yield section(f"suspects: what may change speed and changed since {baseline.name}")
    yield from map(indented, suspects or ["none of what is watched differs"])
    if baseline.environment is None:
        yield indented(styled((f"what was set where the steps of {baseline.name} ran was not kept", QUIET)))
    if report.result.logs or baseline.provenance.source:
        known = "a log does not tell versions and settings; only what was stated of both sides is compared"
        yield indented(styled((known, QUIET)))
    if rest:
        yield indented(styled(("also changed: " + "; ".join(rest), QUIET)))


def _origin(report: CaseReport, *, baseline: DecidingBaseline) -> Iterator[RenderableType]:
    origin = baseline.provenance
    yield section(baseline.name.removeprefix("the "))
    yield unfolded(report.result.baseline_path)
    yield indented(
        f"{count_text(len(baseline.runs), 'run')} of {origin.date}, {commit_text(origin)}: {baseline.reason}"
    )
    if origin.source:
        yield indented(f"read from {origin.source}")


def _next_steps(report: CaseReport, *, width: int) -> Iterator[RenderableType]:
    result = report.result
    yield from log_parts(result)
    if result.run_dir:
        yield section("records and logs of the ranks")
        yield unfolded(result.run_dir)
    if report.rerun_command:
        yield section("to run it again")
        yield from command_lines(report.rerun_command, width=width)
    if report.accept_command and result.verdict.kind in _STORABLE:
        if result.measurement.inject_pct:
            yield section("to accept such a change when it is real")
        elif result.verdict.kind is VerdictKind.IMPROVED:
            yield section("to keep the gain as the new baseline")
        else:
            yield section("to accept it as the new baseline")
        yield from command_lines(report.accept_command, width=width)
