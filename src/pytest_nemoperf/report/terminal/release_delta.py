"""Delta of two releases in the terminal: changes beyond noise, with their suspects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.records.metrics import METRICS
from pytest_nemoperf.report.console import QUIET, indented, section, styled, unfolded
from pytest_nemoperf.report.release_text import DELTA_ORDER, change_text, delta_sentence, ratio_text
from pytest_nemoperf.results.release_delta import (
    ChangeKind,
    ReleaseDelta,
    RowChange,
    common_suspects,
    suspect_text,
)
from pytest_nemoperf.results.row import Row
from pytest_nemoperf.results.row_ratio import INTERVAL_MEANING, main_metric
from pytest_nemoperf.visible import plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES: Final = {ChangeKind.FASTER: "green", ChangeKind.SLOWER: "bold red"}
_MAX_LISTED: Final = 20


def delta_parts(delta: ReleaseDelta, *, is_whole: bool) -> Iterator[RenderableType]:
    """Yield the counts of a delta, each kind of change, new and gone rows, and notes.

    Args:
        delta: The delta.
        is_whole: Also the rows that are the same within noise, and all of those that are many.
    """
    yield plain_text(delta_sentence(delta))
    has_intervals = False
    shared = common_suspects(delta.changes)
    for kind in DELTA_ORDER:
        changes = delta.of_kind(kind)
        if not changes or (kind is ChangeKind.SAME and not is_whole):
            continue
        yield section(kind.value)
        shown = changes if is_whole else changes[:_MAX_LISTED]
        has_intervals |= kind not in {ChangeKind.UNSURE, ChangeKind.NOT_COMPARABLE}
        for change in shown:
            yield from _change_parts(change, shared=[suspect_text(each) for each in shared])
        yield from _left_out(changes, shown=shown)
    for word, rows in (("new", delta.new), ("gone", delta.gone)):
        if rows:
            yield section(word)
            few = rows if is_whole else rows[:_MAX_LISTED]
            yield from map(_alone_text, few)
            yield from _left_out(rows, shown=few)
    if shared:
        yield section("differs in all cases that both have")
        yield from [indented(plain_text(suspect_text(each))) for each in shared]
    if has_intervals:
        yield styled("\n", (INTERVAL_MEANING, QUIET))


def _change_parts(change: RowChange, *, shared: Sequence[str]) -> Iterator[RenderableType]:
    yield unfolded(plain_text(f"{change.now.system} {change.now.case}"))
    metric = METRICS[change.metric]
    then, now = _figure(change.then, metric.name), _figure(change.now, metric.name)
    figures = f"{metric.label} {then} -> {now}, ratio "
    word = f" {change_text(change)}"
    yield indented(styled(figures, ratio_text(change.ratio), (word, _STYLES.get(change.kind, ""))), columns=4)
    own = [text for text in map(suspect_text, change.suspects) if text not in shared]
    if own:
        yield indented(plain_text(f"suspects: {', '.join(own)}"), columns=4)


def _alone_text(row: Row) -> RenderableType:
    metric = main_metric(row)
    figure = "no figure" if metric is None else f"{metric.label} {_figure(row, metric.name)}"
    return unfolded(plain_text(f"{row.system} {row.case}: {figure}"))


def _left_out(rows: Sequence[object], *, shown: Sequence[object]) -> Iterator[RenderableType]:
    if len(rows) > len(shown):
        yield indented(f"and {count_text(len(rows) - len(shown), 'more case')}; --all shows them")


def _figure(row: Row, metric: str) -> str:
    value = row.value(metric)
    return "-" if value is None else METRICS[metric].format(value)
