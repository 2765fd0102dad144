"""Operators of a profiled step beside those of the stored profile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.records.metrics import format_time
from pytest_nemoperf.records.profile import OUTSIDE, CaseProfile, Operator, OperatorChange, Profile, compare_operators
from pytest_nemoperf.records.provenance import Provenance
from pytest_nemoperf.report.cells import commit_text
from pytest_nemoperf.report.console import QUIET, add_figures, figures_table, indented, section, unfolded
from pytest_nemoperf.report.phases import decimals_of, milliseconds_cells
from pytest_nemoperf.report.terminal.commands import command_lines

if TYPE_CHECKING:
    from rich.console import RenderableType

_MAX_ROWS = 10
_MAX_NAMED = 3
_MS_PER_SEC = 1e3
_OPERATOR_TIME = {"cpu": "own time on the CPU", "cuda": "time of its own kernels"}
_OUTSIDE_MEANING = {
    "cpu": "outside operators, in Python or waiting",
    "cuda": "while the device has nothing to do",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorRow:
    """A row of the table: an operator, or the sum of several.

    Attributes:
        name: Operator, marked if new or gone; ``sum``, ``(3 others)``.
        calls_then: Calls per step; empty for sums.
        calls_now: As calls_then.
        then_ms: Time per step, rounded as shown.
        now_ms: As then_ms.
    """

    name: str
    calls_then: str = ""
    calls_now: str = ""
    then_ms: float
    now_ms: float


def profile_parts(profiles: CaseProfile, *, baseline: Provenance | None, width: int) -> Iterator[RenderableType]:
    """Yield the section of --perf-profile in the report of a failing case.

    Args:
        profiles: Profiles of this session and of the baseline.
        baseline: Provenance of the baseline, to recognise a profile of another session; None without a baseline.
        width: Columns of a command.
    """
    if profiles.now is None:
        yield section("operators (--perf-profile)")
        yield indented(f"not profiled: {profiles.problem}")
        return
    steps = count_text(profiles.now.num_steps, "step")
    ranks = count_text(profiles.now.num_ranks, "rank")
    yield section(f"operators ({steps} of {ranks} under torch.profiler)")
    if profiles.then is None:
        yield indented(_taken_table(profiles.now))
        yield indented(_meaning(profiles.now))
        yield indented(f"not compared: {profiles.problem}")
        if profiles.store_command:
            yield indented("on code that is still fast, this stores a profile with the baseline:")
            yield from command_lines(profiles.store_command, width=width)
    else:
        yield from _compared(profiles.now, then=profiles.then)
        if profiles.then.provenance is not None and profiles.then.provenance != baseline:
            origin = profiles.then.provenance
            age = f"{origin.date}, {commit_text(origin)}"
            yield indented(f"the stored profile is not of the baseline's session but of {age}")
    if profiles.traces:
        yield indented("traces by rank, to be opened in https://ui.perfetto.dev")
        for path in profiles.traces:
            yield unfolded(path)


def _summary_sentence(changes: Sequence[OperatorChange], *, device: str) -> str:
    """Return a sentence on the operator that adds most time to a step.

    Args:
        changes: As compare_operators returned them.
        device: ``cuda`` or ``cpu``.
    """
    if not changes or changes[0].added_sec <= 0:
        return "no operator takes more of a step than in the stored profile"
    most = changes[0]
    added = format_time(most.added_sec)
    if most.name == OUTSIDE[device]:
        return f"most is added {_OUTSIDE_MEANING[device]}: {added} a step"
    if most.then is None or most.now is None:
        return f"{most.name} adds most: {added} a step; it is new"
    then = format_time(most.then.self_sec_per_step)
    now = format_time(most.now.self_sec_per_step)
    calls = f"{_calls(most.then)} -> {_calls(most.now)}"
    if _calls(most.then) == _calls(most.now):
        calls = f"the same {_calls(most.now)}"
    return f"{most.name} adds most: {added} a step, {then} -> {now} in {calls} calls"


def _calls_sentence(changes: Sequence[OperatorChange]) -> str:
    """Return a sentence on the operators with other numbers of calls; unlike times, these have no noise.

    Args:
        changes: As compare_operators returned them.
    """
    others = [change for change in changes if change.has_other_calls]
    if not others:
        return "every operator is called as often as then: the same work takes another time"
    others.sort(key=lambda change: -abs(change.added_sec))
    named = []
    for each in others[:_MAX_NAMED]:
        named.append(f"{each.name} {_calls(each.then)} -> {_calls(each.now)}")
    text = f"called more or less often: {', '.join(named)}"
    if len(others) > _MAX_NAMED:
        text += f" and {count_text(len(others) - _MAX_NAMED, 'other')}"
    return text


def _operator_rows(changes: Sequence[OperatorChange], *, decimals: int) -> list[OperatorRow]:
    """Return the largest changes, the slowdowns first, the sum of the others, and the sum of all.

    The figures are rounded before they are added up, so that the printed rows add up to the printed sum.

    Args:
        changes: As compare_operators returned them.
        decimals: Decimals of a millisecond.
    """
    largest = sorted(changes, key=lambda change: -abs(change.added_sec))[:_MAX_ROWS]
    rows = []
    others = []
    for change in changes:
        if change in largest:
            rows.append(_row(change, decimals=decimals))
        else:
            others.append(change)
    if others:
        rows.append(_others_row(others, decimals=decimals))
    then_ms = round(sum(row.then_ms for row in rows), decimals)
    now_ms = round(sum(row.now_ms for row in rows), decimals)
    return [*rows, OperatorRow(name="sum", then_ms=then_ms, now_ms=now_ms)]


def _compared(now: Profile, *, then: Profile) -> Iterator[RenderableType]:
    changes = compare_operators(now.operators, then=then.operators)
    decimals = decimals_of(now.step_time_sec * _MS_PER_SEC)
    yield indented(_summary_sentence(changes, device=now.device))
    yield indented(_calls_sentence(changes))
    table = figures_table(("operator", "calls then", "now", "ms then", "now", "difference"))
    *rows, total = _operator_rows(changes, decimals=decimals)
    for row in rows:
        style = "" if row.calls_now else QUIET
        add_figures(table, *_cells(row, decimals=decimals), style=style)
    add_figures(table, *_cells(total, decimals=decimals), style="bold")
    yield indented(table)
    yield indented(_meaning(now))


def _taken_table(now: Profile) -> RenderableType:
    """Return the operators that take most of a step, without a profile to compare with."""
    largest = sorted(now.operators.items(), key=lambda item: -item[1].self_sec_per_step)
    decimals = decimals_of(now.step_time_sec * _MS_PER_SEC)
    table = figures_table(("operator", "calls a step", "ms a step"))
    for name, operator in largest[:_MAX_ROWS]:
        add_figures(table, name, _calls(operator), f"{_ms(operator):,.{decimals}f}")
    others = sum(_ms(operator) for _, operator in largest[_MAX_ROWS:])
    if others:
        add_figures(
            table, f"({count_text(len(largest) - _MAX_ROWS, 'other')})", "", f"{others:,.{decimals}f}", style=QUIET
        )
    return table


def _meaning(now: Profile) -> str:
    each = "" if now.num_ranks == 1 else ", on the rank where it takes most"
    return (
        f"ms a step: an operator's {_OPERATOR_TIME[now.device]}{each}. The profiler slows steps down "
        f"(here to {format_time(now.step_time_sec)}), so only differences count."
    )


def _row(change: OperatorChange, *, decimals: int) -> OperatorRow:
    name = change.name
    if change.then is None:
        name += " (new)"
    elif change.now is None:
        name += " (gone)"
    return OperatorRow(
        name=name,
        calls_then=_calls(change.then),
        calls_now=_calls(change.now),
        then_ms=round(_ms(change.then), decimals),
        now_ms=round(_ms(change.now), decimals),
    )


def _others_row(others: Sequence[OperatorChange], *, decimals: int) -> OperatorRow:
    num_new = num_gone = 0
    then_ms = now_ms = 0.0
    for change in others:
        num_new += change.then is None
        num_gone += change.now is None
        then_ms += _ms(change.then)
        now_ms += _ms(change.now)
    counts = [count_text(len(others), "other")]
    if num_new:
        counts.append(f"{num_new:,} new")
    if num_gone:
        counts.append(f"{num_gone:,} gone")
    return OperatorRow(name=f"({', '.join(counts)})", then_ms=round(then_ms, decimals), now_ms=round(now_ms, decimals))


def _cells(row: OperatorRow, *, decimals: int) -> list[str]:
    times = milliseconds_cells(row.then_ms, row.now_ms, decimals=decimals)
    return [row.name, row.calls_then, row.calls_now, *times]


def _ms(operator: Operator | None) -> float:
    return 0.0 if operator is None else operator.self_sec_per_step * _MS_PER_SEC


def _calls(operator: Operator | None) -> str:
    if operator is None or not operator.calls_per_step:
        return "-"
    return f"{operator.calls_per_step:,g}"
