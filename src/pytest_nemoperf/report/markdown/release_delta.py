"""Delta of two releases as Markdown: ``delta_table(delta)``, for pages and for ``nemoperf release``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from pytest_nemoperf.records.metrics import METRICS
from pytest_nemoperf.report.escape import markdown_cell, markdown_text
from pytest_nemoperf.report.release_text import DELTA_ORDER, change_text, delta_sentence, ratio_text
from pytest_nemoperf.report.tables import page_number, table_lines
from pytest_nemoperf.results.release_delta import (
    ReleaseDelta,
    RowChange,
    common_suspects,
    suspect_text,
)
from pytest_nemoperf.results.row import Row
from pytest_nemoperf.results.row_ratio import INTERVAL_MEANING, main_metric

_MAX_SUSPECTS: Final = 6


def delta_table(delta: ReleaseDelta) -> list[str]:
    """Return the Markdown lines of the changes of a release: counts, one table, notes on intervals and suspects.

    Rows that are slower come first, then faster ones, new ones, and those that are gone; with the suspects of each, but
    for what differs in all of them, which is told once below the table.
    """
    lines = [markdown_text(delta_sentence(delta)), ""]
    shared = common_suspects(delta.changes)
    rows = []
    for kind in DELTA_ORDER:
        for change in delta.of_kind(kind):
            suspects = [each for each in change.suspects if each not in shared]
            rows.append(_change_cells(change, suspects=[suspect_text(each) for each in suspects]))
    for word, alone in (("new", delta.new), ("gone", delta.gone)):
        rows += [_alone_cells(row, word=word) for row in alone]
    if not rows:
        return lines
    headings = [
        "System",
        "Case",
        "Metric",
        markdown_cell(delta.previous),
        markdown_cell(delta.name),
        "Ratio",
        "Change",
        "Suspects",
    ]
    lines += [*table_lines(headings, rows=rows), ""]
    if shared:
        lines += [
            f"In all cases that both have: {markdown_text(_listed([suspect_text(each) for each in shared]))}.",
            "",
        ]
    if any(change.ratio is not None and change.ratio.low is not None for change in delta.changes):
        lines += [INTERVAL_MEANING, ""]
    return lines


def _change_cells(change: RowChange, *, suspects: Sequence[str]) -> list[str]:
    return [
        change.now.system,
        change.now.case,
        METRICS[change.metric].label,
        page_number(change.then.value(change.metric)),
        page_number(change.now.value(change.metric)),
        ratio_text(change.ratio),
        change_text(change),
        _listed(suspects),
    ]


def _alone_cells(row: Row, *, word: str) -> list[str]:
    metric = main_metric(row)
    figure = "-" if metric is None else page_number(row.value(metric.name))
    then, now = ("-", figure) if word == "new" else (figure, "-")
    return [row.system, row.case, "" if metric is None else metric.label, then, now, "-", word, ""]


def _listed(suspects: Sequence[str]) -> str:
    return ", ".join(_first(suspects))


def _first(suspects: Sequence[str]) -> Iterator[str]:
    yield from suspects[:_MAX_SUSPECTS]
    if len(suspects) > _MAX_SUSPECTS:
        yield f"and {len(suspects) - _MAX_SUSPECTS} more"
