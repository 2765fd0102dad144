"""The end of a session: which baselines were written, left as they are, or deleted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_nemoperf.baseline import find_mismatches
from pytest_nemoperf.measure import Run, median_over_runs
from pytest_nemoperf.metrics import JUDGED, Metric
from pytest_nemoperf.plurals import count_text
from pytest_nemoperf.report.cells import figures_text, signed_percent
from pytest_nemoperf.report.console import ALARM, heading, indented, styled, whole
from pytest_nemoperf.results import CaseReport, Pruned, Unasked

if TYPE_CHECKING:
    from rich.console import RenderableType

_MAX_LISTED = 10


def stored_parts(reports: Sequence[CaseReport]) -> Iterator[RenderableType]:
    """Return what was written, for the project and for this machine alone, and why the rest was not."""
    stored = [report for report in reports if report.result.stored_path]
    committed = [report for report in stored if not report.result.is_stored_locally]
    local = [report.result.stored_path for report in stored if report.result.is_stored_locally]
    if committed:
        yield ""
        yield heading("baselines written")
    for report in committed:
        yield whole(report.result.stored_path)
        yield from (indented(line, columns=4) for line in _old_to_new(report))
        if report.result.storing_note:
            yield indented(report.result.storing_note, columns=4)
    if profiles := [report.stored_profile for report in reports if report.stored_profile]:
        yield ""
        yield heading("profiles written")
        yield from map(whole, profiles)
    yield from _not_stored(reports)
    if local:
        yield ""
        yield heading("recorded for this machine's next session, not to be committed")
        for folder, number in Counter(path.rpartition("/")[0] for path in local).items():
            yield whole(f"{count_text(number, 'case')} in {folder}")


def pruned_parts(pruned: Pruned | None) -> Iterator[RenderableType]:
    """Return what --perf-prune deleted, or why it deleted nothing."""
    if pruned is None:
        return
    yield ""
    if pruned.deleted:
        yield heading("baselines deleted, for no perf test asks for them")
        yield from map(whole, pruned.deleted)
    elif not pruned.why_not:
        yield "nothing to delete: a perf test asks for every stored baseline (--perf-prune)"
    if pruned.why_not:
        yield heading("baselines not deleted (--perf-prune), for more may ask for them than was seen")
        yield from map(indented, pruned.why_not)


def unasked_parts(unasked: Unasked | None) -> Iterator[RenderableType]:
    """Return which stored baselines may be those of cases without one."""
    if unasked is None:
        return
    yield ""
    yield styled((unasked_title(unasked), ALARM))
    yield from map(whole, _unasked_names(unasked))
    yield from map(indented, _unasked_advice(unasked))


def unasked_title(unasked: Unasked) -> str:
    """Return in a line how many baselines no test asks for, beside how many cases without one."""
    if not unasked.missing:
        return f"{count_text(len(unasked.stored), 'baseline')} that no test asks for: are their tests still collected?"
    missing = f"{count_text(len(unasked.missing), 'case')} without a committed baseline"
    if not unasked.stored:
        return f"{missing}, and stored ones that no test which was seen asks for"
    seen = " which was seen" if unasked.gaps else ""
    stored = count_text(len(unasked.stored), "baseline")
    return f"{missing}, and {stored} that no test{seen} asks for: renamed?"


def unasked_lines(unasked: Unasked) -> list[str]:
    """Return both sides, which of them are the same but for a name, and what to do."""
    return [*_unasked_names(unasked), *_unasked_advice(unasked)]


def _unasked_names(unasked: Unasked) -> list[str]:
    names = [f"{case} is {stored} but for the model's name" for case, stored in unasked.renamed.items()]
    if not unasked.gaps:
        names += _first([f"no baseline: {case}" for case in unasked.missing if case not in unasked.renamed])
        names += _first([f"asked for by no test: {path}" for path in unasked.stored])
    return names


def _unasked_advice(unasked: Unasked) -> Iterator[str]:
    for gap in unasked.gaps:
        yield f"a test that was not seen may ask for them: {gap}"
    if not unasked.stored:
        yield "so nothing is known of them, and perf_fail_on_unasked fails nothing"
    elif not unasked.missing:
        yield "bring the tests back, or delete the files: --update-baselines --perf-prune"
    else:
        yield (
            "name the cases as before (model_name or variant of the recipe, the id of the test), or record them anew: "
            "--update-baselines --perf-prune"
        )
    if unasked.is_failure:
        yield "the session fails for this (perf_fail_on_unasked)"


def _first(lines: list[str]) -> list[str]:
    if len(lines) <= _MAX_LISTED:
        return lines
    return [*lines[:_MAX_LISTED], f"and {len(lines) - _MAX_LISTED} more like it"]


def _not_stored(reports: Sequence[CaseReport]) -> Iterator[RenderableType]:
    """Why an update left cases as they are; the same words once for all cases they are true of."""
    notes = Counter(r.result.storing_note for r in reports if r.result.storing_note and not r.result.stored_path)
    if notes:
        yield ""
        yield heading("baselines left as they are")
        yield from (indented(f"{count_text(number, 'case')}: {note}") for note, number in notes.items())


def _old_to_new(report: CaseReport) -> list[str]:
    runs = report.result.measurement.runs if report.stored is None else report.stored.runs
    if report.replaced is None:
        return [f"new: {figures_text(runs)}"]
    stored = report.stored
    if stored is not None and find_mismatches(report.replaced, machine=stored.machine, workload=stored.workload):
        return [f"new: {figures_text(runs)}", "in place of runs that do not compare: of another machine or workload"]
    lines = []
    for metric in JUDGED:
        old, new = _sides(report, metric=metric, runs=runs)
        if old is not None and new is not None:
            figures = [metric.format(value) for value in (old, new)]
            delta = signed_percent(metric.delta_pct(new, baseline=old))
            lines.append(f"{metric.label}: {figures[0]} -> {figures[1]} ({delta})")
    return lines


def _sides(report: CaseReport, *, metric: Metric, runs: Sequence[Run]) -> tuple[float | None, float | None]:
    """Return old and new as they were judged, where just these runs were; else their medians."""
    result, replaced = report.result, report.replaced
    if replaced is not None and report.baseline == replaced and result.measurement.runs == tuple(runs):
        for each in result.verdict.comparisons:
            if each.metric == metric.name and not each.anchor:
                return each.baseline, each.now
    old = () if replaced is None else replaced.runs
    return median_over_runs(old, metric=metric.name), median_over_runs(runs, metric=metric.name)
