"""Report of --perf-ab: both revisions side by side, rounds and method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_nemoperf.ab.comparison import ABResult, ABRound, metric_around_median, speed_metric
from pytest_nemoperf.errors import count_text
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.metrics import METRICS, TFLOPS_PER_SEC_PER_GPU
from pytest_nemoperf.report.cells import change_text, elapsed_text, injected_mark, signed_percent, terms_text
from pytest_nemoperf.report.console import (
    ALARM,
    add_figures,
    figures_table,
    headline,
    indented,
    injection_banner,
    section,
    style_of,
    to_text,
    unfolded,
    verdict_text,
)
from pytest_nemoperf.report.phases import compare_phases, loss_sentence, phase_table, rank_groups
from pytest_nemoperf.report.resolution import short_interval_text
from pytest_nemoperf.report.terminal.commands import command_lines
from pytest_nemoperf.results.cases import CaseReport, CaseResult, Confirmation
from pytest_nemoperf.verdict.comparison import Comparison, VerdictKind, delta_pct

if TYPE_CHECKING:
    from rich.console import RenderableType

_PCT = 100.0
_MOVED = frozenset({VerdictKind.REGRESSED, VerdictKind.IMPROVED})


def render_ab(report: CaseReport, *, ab: ABResult, width: int, color: bool) -> str:
    """Return the report of a case that was compared with another revision.

    Args:
        report: The case.
        ab: Rounds and method of the comparison.
        width: Columns; only a path may be longer.
        color: Whether to use terminal colours.
    """
    return to_text(_parts(report, ab=ab, width=width), width=width, color=color)


def ab_header(
    revision: str,
    *,
    limit_sec: float,
    tolerances: Mapping[str, float],
    finds: Mapping[str, float],
    caution: str = "",
) -> str:
    """Return the session header's line on the comparison, which replaces the one on baselines.

    Args:
        revision: The other revision.
        limit_sec: Time limit of a case.
        tolerances: Allowed worsening in percent by metric.
        finds: Worsening to be found, in percent by metric.
        caution: Warning about the two sides; empty for none.
    """
    line = (
        f"perf: cases are compared with {revision}, by --perf-ab, for at most {elapsed_text(limit_sec)} each; "
        f"{terms_text(tolerances, finds=finds)}; baselines are neither read nor written"
    )
    if caution:
        line += f"\nperf: CAUTION: {caution}"
    return line


def render_round_line(
    *,
    case: str,
    number: int,
    round_: ABRound,
    old: Sequence[Run],
    new: Sequence[Run],
    elapsed_sec: float,
    inject_pct: float = 0.0,
) -> str:
    """Return the log line of a finished round.

    Args:
        case: Case id.
        number: Number of the round, counted from 1.
        round_: The round.
        old: Runs of the old side; unused if the round was left out.
        new: Runs of the new side; unused if the round was left out.
        elapsed_sec: Duration of the round.
        inject_pct: Self-test delay of new in percent; 0 for a real round.
    """
    head = f"{injected_mark(inject_pct)}{case}: round {number}:"
    took = elapsed_text(elapsed_sec)
    if round_.left_out:
        return f"{head} left out after {took}: {round_.left_out}"
    metric = speed_metric(round_)
    worsening = round_.ratios[metric.name]
    before, after = metric_around_median(old, new, worsening=worsening, metric=metric)
    figures = f"old {metric.format(before)}, new {metric.format(after)} {metric.label}"
    ratio = change_text(delta_pct(worsening, metric=metric), metric=metric.name)
    return f"{head} {figures}, ratio {ratio}, took {took}"


def ab_parts(cases: Sequence[CaseResult], *, names: Mapping[str, str]) -> Iterator[RenderableType]:
    """Yield the summary's section on the cases that were compared with another revision, by their short names."""
    old = None
    for case in cases:
        if case.ab is None:
            continue
        if case.ab.old != old:
            old = case.ab.old
            yield section(f"compared with {old}")
        yield indented(f"{names[case.verdict.case]}: {_method_text(case.ab)}")


def beside_parts(confirmations: Sequence[Confirmation]) -> Iterator[RenderableType]:
    """Yield the rounds of a case that its stored baseline did not clear, beside the commit of its runs."""
    for each in confirmations:
        if each.ab is not None:
            yield section(f"side by side with {each.commit}, here and now")
            yield _comparison_table(each.comparisons)
            yield from _round_parts(each.ab)


def _parts(report: CaseReport, *, ab: ABResult, width: int) -> Iterator[RenderableType]:
    result = report.result
    inject_pct = result.measurement.inject_pct
    verdict = result.verdict
    yield headline((injected_mark(inject_pct), ALARM), (verdict.kind.value, style_of(verdict.kind)), verdict.case)
    if inject_pct:
        yield injection_banner(inject_pct, width=width)
    yield from verdict.reasons
    if verdict.comparisons:
        yield ""
        yield _comparison_table(verdict.comparisons)
        yield indented("the sides are as far apart as neighbouring steps are, around what both did over all rounds")
        yield from _time_by_phase(report, ab=ab)
    yield from _method_parts(ab)
    if result.run_dir:
        yield section("records and logs of both sides' ranks")
        yield unfolded(result.run_dir)
    if report.rerun_command:
        yield section("to run it again")
        yield from command_lines(report.rerun_command, width=width)


def _comparison_table(comparisons: Sequence[Comparison]) -> RenderableType:
    table = figures_table(("metric", "old", "new", "delta", "95% interval"))
    table.add_column("verdict", overflow="fold")
    for comparison in comparisons:
        metric = METRICS[comparison.metric]
        if metric is TFLOPS_PER_SEC_PER_GPU:  # as tokens/s, by the FLOPs of a token
            continue
        add_figures(
            table,
            metric.label,
            metric.format(comparison.baseline),
            metric.format(comparison.now),
            signed_percent(comparison.delta_pct),
            short_interval_text(comparison),
            verdict_text(comparison.kind),
        )
    return indented(table)


def _time_by_phase(report: CaseReport, *, ab: ABResult) -> Iterator[RenderableType]:
    new = report.result.measurement.runs
    titles: dict[str | None, str] = {None: "where the step's time goes (ms, slowest rank)"}
    for name in rank_groups(new):
        titles[name] = f"where the time of the {name} ranks goes (ms)"
    for group, title in titles.items():
        compared = compare_phases(new, baseline=ab.old_measurement.runs, group=group)
        if compared is None:
            continue
        yield section(title)
        yield phase_table(compared, sides=("old", "new"), has_shares=False)
        sentence = loss_sentence(compared)
        if sentence and report.result.verdict.kind in _MOVED:
            yield indented(sentence)


def _method_text(ab: ABResult) -> str:
    num_counted = num_new_first = 0
    for each in ab.rounds:
        num_counted += not each.left_out
        num_new_first += each.first == "new"
    method = "whole launches"
    if ab.method == "turns":
        method = f"turns of {count_text(ab.block_steps, 'step')}"
    return (
        f"{count_text(num_counted, 'round')} in {elapsed_text(ab.duration_sec)} by {method}; "
        f"{num_new_first} of {len(ab.rounds)} began with new (drawn from seed {ab.seed})"
    )


def _method_parts(ab: ABResult) -> Iterator[RenderableType]:
    yield section(f"how {ab.new} was compared with {ab.old}")
    yield from _round_parts(ab)


def _round_parts(ab: ABResult) -> Iterator[RenderableType]:
    yield indented(_method_text(ab))
    if ab.why_launches:
        yield indented(f"not by turns: {ab.why_launches}")
    changes = []
    reasons: list[str] = []
    for each in ab.rounds:
        if not each.left_out:
            changes.append(signed_percent(_PCT * math.expm1(each.ratios[speed_metric(each).name])))
            continue
        changes.append("(left out)")
        if each.left_out not in reasons:
            reasons.append(each.left_out)
    yield indented(f"time a step of new beside old, round by round: {' '.join(changes)}")
    for reason in reasons:
        yield indented(f"(left out) {reason}")
