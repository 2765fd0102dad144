"""Summary of the files a session wrote, kept or deleted, and of baselines without a test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_nemoperf.baselines.baseline import Baseline, find_mismatches
from pytest_nemoperf.errors import count_text
from pytest_nemoperf.measure.figures import figure_over_runs
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.metrics import JUDGED, Judged, Metric
from pytest_nemoperf.report.alike import with_ranges, without_numbers
from pytest_nemoperf.report.cells import figures_text, signed_percent
from pytest_nemoperf.report.console import ALARM, heading, indented, section, styled, unfolded
from pytest_nemoperf.results.cases import CaseReport, Pruned, Unasked

if TYPE_CHECKING:
    from rich.console import RenderableType

_MAX_LISTED = 10


def stored_parts(reports: Sequence[CaseReport]) -> Iterator[RenderableType]:
    """Yield the written baselines and profiles, the reasons for those not written, and this machine's own records."""
    committed = []
    profiles = []
    local: Counter[str] = Counter()  # cases by folder
    for report in reports:
        if report.stored_profile:
            profiles.append(report.stored_profile)
        if report.result.stored_path and report.result.is_stored_locally:
            folder, _, _ = report.result.stored_path.rpartition("/")
            local[folder] += 1
        elif report.result.stored_path:
            committed.append(report)
    if committed:
        yield section("baselines written")
    for report in committed:
        yield unfolded(report.result.stored_path)
        for line in _old_to_new(report):
            yield indented(line, columns=4)
    yield from _storing_notes(committed)
    if profiles:
        yield section("profiles written")
        yield from map(unfolded, profiles)
    yield from _not_stored(reports)
    if local:
        yield section("recorded for this machine's next session, not to be committed")
    for folder, number in local.items():
        yield unfolded(f"{count_text(number, 'case')} in {folder}")


def pruned_parts(pruned: Pruned | None) -> Iterator[RenderableType]:
    """Yield the files that --perf-prune deleted, or its reasons for deleting none."""
    if pruned is None:
        return
    yield ""
    if pruned.deleted:
        yield heading("baselines deleted, for no perf test asks for them")
        yield from map(unfolded, pruned.deleted)
    elif not pruned.why_not:
        yield "nothing to delete: a perf test asks for every stored baseline (--perf-prune)"
    if pruned.why_not:
        yield heading("baselines not deleted (--perf-prune), for more may ask for them than was seen")
        yield from map(indented, pruned.why_not)


def unasked_parts(unasked: Unasked | None) -> Iterator[RenderableType]:
    """Yield the section on baselines that no test asks for."""
    if unasked is None:
        return
    yield ""
    yield styled((unasked_title(unasked), ALARM))
    yield from map(unfolded, _unasked_names(unasked))
    yield from map(indented, _unasked_advice(unasked))


def unasked_title(unasked: Unasked) -> str:
    """Return the numbers of baselines that no test asks for and of cases without a baseline."""
    if not unasked.missing:
        return f"{count_text(len(unasked.stored), 'baseline')} that no test asks for: are their tests still collected?"
    missing = f"{count_text(len(unasked.missing), 'case')} without a committed baseline"
    if not unasked.stored:
        return f"{missing}, and stored ones that no test which was seen asks for"
    seen = " which was seen" if unasked.gaps else ""
    stored = count_text(len(unasked.stored), "baseline")
    return f"{missing}, and {stored} that no test{seen} asks for: renamed?"


def unasked_lines(unasked: Unasked) -> list[str]:
    """Return the cases and files, renamed pairs first, then advice."""
    return [*_unasked_names(unasked), *_unasked_advice(unasked)]


def _unasked_names(unasked: Unasked) -> list[str]:
    names = []
    for case, stored in unasked.renamed.items():
        names.append(f"{case} is {stored} but for the model's name")
    if not unasked.gaps:
        missing = [case for case in unasked.missing if case not in unasked.renamed]
        names += _first(missing, label="no baseline")
        names += _first(unasked.stored, label="asked for by no test")
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


def _first(names: Sequence[str], *, label: str) -> Iterator[str]:
    for name in names[:_MAX_LISTED]:
        yield f"{label}: {name}"
    if len(names) > _MAX_LISTED:
        yield f"and {len(names) - _MAX_LISTED} more like it"


def _not_stored(reports: Sequence[CaseReport]) -> Iterator[RenderableType]:
    """Yield the reasons for baselines that an update did not write."""
    notes = list(_storing_notes([report for report in reports if not report.result.stored_path]))
    if notes:
        yield section("baselines left as they are")
    yield from notes


def _storing_notes(reports: Sequence[CaseReport]) -> Iterator[RenderableType]:
    """Yield each note on storing once, with its number of cases; those that differ in numbers alone are one."""
    alike: dict[str, list[str]] = {}
    for report in reports:
        note = report.result.storing_note
        if note:
            alike.setdefault(without_numbers(note), []).append(note)
    for notes in alike.values():
        yield indented(f"{count_text(len(notes), 'case')}: {with_ranges(notes)}")


def _old_to_new(report: CaseReport) -> list[str]:
    stored = report.stored
    replaced = report.replaced
    runs = stored.runs if stored is not None else report.result.measurement.runs
    if replaced is None:
        return [f"new: {figures_text(runs)}"]
    if stored is not None and find_mismatches(replaced, machine=stored.machine, workload=stored.workload):
        return [f"new: {figures_text(runs)}", "in place of runs that do not compare: of another machine or workload"]
    lines = []
    for metric in JUDGED:
        if metric.judged is Judged.WHEN_NAMED:
            continue
        old, new = _sides(report, replaced=replaced, metric=metric, runs=runs)
        if old is not None and new is not None:
            delta = signed_percent(metric.delta_pct(new, baseline=old))
            lines.append(f"{metric.label}: {metric.format(old)} -> {metric.format(new)} ({delta})")
    return lines


def _sides(
    report: CaseReport, *, replaced: Baseline, metric: Metric, runs: Sequence[Run]
) -> tuple[float | None, float | None]:
    """Return old and new as they were judged, if exactly these runs were judged; else the figures of both."""
    result = report.result
    if report.baseline == replaced and result.measurement.runs == tuple(runs):
        for each in result.verdict.comparisons:
            if each.metric == metric.name and not each.anchor:
                return each.baseline, each.now
    return figure_over_runs(replaced.runs, metric=metric.name), figure_over_runs(runs, metric=metric.name)
