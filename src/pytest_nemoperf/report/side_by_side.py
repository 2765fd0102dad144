"""Rows beside each other: cells and sentences of their tables in every format; CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.json_codec import to_data
from pytest_nemoperf.records.metrics import METRICS
from pytest_nemoperf.report.cells import percent
from pytest_nemoperf.report.escape import csv_cell, markdown_cell, markdown_text
from pytest_nemoperf.report.release_text import ratio_text
from pytest_nemoperf.report.row_columns import figure_text
from pytest_nemoperf.report.tables import ready_table
from pytest_nemoperf.results.line_figures import Figure, LineFigures
from pytest_nemoperf.results.row import Row, RowKind
from pytest_nemoperf.results.row_ratio import INTERVAL_MEANING
from pytest_nemoperf.results.side_by_side import FACETS, SideBySide, recipe_label

_SCHEMA_VERSION: Final = 1
_BEST: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Rows beside each other with their figures.

    Attributes:
        matched: The rows.
        tables: Figures of all lines by metric, in the order to print.
        is_whole: Also list the rows without a counterpart.
    """

    matched: SideBySide
    tables: tuple[tuple[str, tuple[LineFigures, ...]], ...]
    is_whole: bool = False


def compared_sentence(matched: SideBySide) -> str:
    """Return the numbers of rows that have a counterpart, and the columns in which they are equal."""
    counts = []
    for number, name in enumerate(matched.names):
        num_matched = len([line for line in matched.lines if line.rows[number] is not None])
        num_rows = num_matched + len(matched.unmatched[number])
        counts.append(f"{num_matched:,} of {count_text(num_rows, 'row')} of {name}")
    by = " and ".join(matched.axes) or "case"
    return f"By {by}: {', '.join(counts)}."


def headings(matched: SideBySide) -> list[str]:
    """Return the headings of a table of figures: of each source value and runs, and behind the first the ratio."""
    texts = ["case"]
    for number, name in enumerate(matched.names):
        texts += [name, "runs"]
        if number:
            texts.append(f"/ {matched.names[0]}")
    return texts


def line_cells(line: LineFigures) -> Iterator[tuple[str, bool]]:
    """Yield the cells of a line below `headings` but for its label, each with whether it is the best value."""
    for number, (figure, row) in enumerate(zip(line.figures, line.line.rows, strict=True)):
        if figure is None or row is None:
            yield "-", False
            yield "", False
        else:
            yield figure_text(row, metric=METRICS[line.metric]), figure.is_best
            yield _runs_text(figure, row=row), False
        if number:
            yield ratio_text(None if figure is None else figure.ratio), False


def notes(compared: Compared) -> list[str]:
    """Return the sentences below tables: the mark, intervals, values that have none, TFLOP/s that do not compare."""
    figures = list(_known_figures(compared))
    ratios = [figure.ratio for figure in figures if figure.ratio is not None]
    texts = []
    if any(figure.is_best for figure in figures):
        texts.append("The best value of each line is marked. Runs are followed by their spread, (max - min) / median.")
    if any(ratio.low is not None for ratio in ratios):
        texts.append(INTERVAL_MEANING)
    for reason in dict.fromkeys([ratio.why_no_interval for ratio in ratios if ratio.why_no_interval]):
        texts.append(f"A ratio without brackets has no interval: {reason}.")
    for metric, lines in compared.tables:
        number = len([line for line in lines if not line.is_comparable])
        if number:
            texts.append(
                f"{METRICS[metric].label} of {count_text(number, 'line')} do not compare, for their FLOPs are counted "
                "under different conventions, or under one that is not known; tokens/sec/GPU do."
            )
        without = len([line for line in lines if not has_figures(line)])
        if without:
            texts.append(f"{count_text(without, 'line')} not shown, for no row has {METRICS[metric].label}.")
    return texts


def has_figures(line: LineFigures) -> bool:
    """Return whether a line has a figure of its metric."""
    return any(figure is not None for figure in line.figures)


def unmatched_sentence(matched: SideBySide) -> str:
    """Return the numbers of rows without a counterpart; empty if there are none."""
    counts = []
    for name, rows in zip(matched.names, matched.unmatched, strict=True):
        if rows:
            counts.append(f"{len(rows):,} of {name}")
    return f"Without a counterpart: {', '.join(counts)}." if counts else ""


def unmatched_labels(rows: Sequence[Row]) -> list[str]:
    """Return names for rows without a counterpart: the case id, or of a published row its recipe and release."""
    labels = []
    for row in rows:
        label = row.case
        if row.origin.kind is not RowKind.MEASURED:
            label = f"{recipe_label(row)} ({row.case}, {row.origin.release})"
        labels.append(f"{row.system} {label}")
    return labels


def nothing_matched_text(matched: SideBySide, *, is_filtered: bool = False) -> str:
    """Return a sentence on the columns that would have to be equal, for sources that have no row in common.

    Args:
        matched: The sources.
        is_filtered: Their rows were chosen by conditions.
    """
    empty = [name for name, rows in zip(matched.names, matched.unmatched, strict=True) if not rows]
    if empty:
        verb = "has" if len(empty) == 1 else "have"
        remedy = "--where may leave out too many" if is_filtered else "nemoperf show lists what there is"
        return f"nothing to compare: {' and '.join(empty)} {verb} no row; {remedy}"
    columns = []
    for name in matched.equal:
        if any(FACETS[name](row) is not None for rows in matched.unmatched for row in rows):
            columns.append(name)
    case = "of the same case, or " if matched.is_by_case else ""
    return (
        f"no row of one source has a counterpart in another: it would have to be {case}equal in {', '.join(columns)}; "
        "--equal COLUMN,... names fewer, e.g. --equal model,precision,seq_len"
    )


def marked(text: str, *, is_best: bool) -> str:
    """Return a value with the mark of the best one, or room for it."""
    return f"{text}{_BEST}" if is_best else f"{text} "


def side_by_side_markdown(compared: Compared) -> str:
    """Return a table for each metric in Markdown, the best of each line in bold, and the notes."""
    matched = compared.matched
    lines = [markdown_text(compared_sentence(matched)), ""]
    has_notes = any(line.differs for line in matched.lines)
    heads = list(map(markdown_cell, headings(matched)))
    for metric, figures in compared.tables:
        rows = []
        for each in filter(has_figures, figures):
            cells = [markdown_cell(each.line.label)]
            for text, is_best in line_cells(each):
                cells.append(f"**{markdown_cell(text)}**" if is_best else markdown_cell(text))
            if has_notes:
                cells.append(markdown_cell("; ".join(each.line.differs)))
            rows.append(cells)
        extra = ["also differ in"] if has_notes else []
        lines += [f"#### {markdown_text(METRICS[metric].label)}", "", *ready_table([*heads, *extra], rows=rows), ""]
    for note in (*notes(compared), unmatched_sentence(matched)):
        if note:
            lines += [markdown_text(note), ""]
    if compared.is_whole:
        for name, alone in zip(matched.names, matched.unmatched, strict=True):
            if alone:
                lines += [markdown_text(f"Only {name} has:"), ""]
                lines += [f"- {markdown_text(label)}" for label in unmatched_labels(alone)]
                lines.append("")
    return "\n".join(lines)


def side_by_side_csv(compared: Compared) -> str:
    """Return one line for each figure: label, metric, source, its row, value and ratio, unrounded.

    Texts that a spreadsheet would take for formulas have an apostrophe in front.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = ["label", "metric", "source", "case", "system", "framework", "value", "num_runs", "spread_pct", "is_best"]
    writer.writerow([*names, "ratio", "ratio_low", "ratio_high", "why_no_interval", "differs"])
    for metric, lines in compared.tables:
        for line in lines:
            for name, row, figure in zip(compared.matched.names, line.line.rows, line.figures, strict=True):
                if row is None or figure is None:
                    continue
                cells: list[object] = [line.line.label, metric, name, row.case, row.system, row.framework]
                cells += [figure.value, figure.num_runs, figure.spread_pct, int(figure.is_best), *_ratio_cells(figure)]
                writer.writerow([csv_cell(cell) for cell in (*cells, "; ".join(line.line.differs))])
    if compared.is_whole:
        for name, rows in zip(compared.matched.names, compared.matched.unmatched, strict=True):
            for row, label in zip(rows, unmatched_labels(rows), strict=True):
                cells = [label, "", name, row.case, row.system, row.framework]
                writer.writerow([csv_cell(cell) for cell in (*cells, *[None] * 9)])
    return file.getvalue()


def side_by_side_json(compared: Compared) -> str:
    """Return lines with their rows and figures as JSON, in ASCII; rows without a counterpart by case."""
    lines: list[dict[str, Any]] = []
    for number, line in enumerate(compared.matched.lines):
        figures = {}
        for metric, table in compared.tables:
            figures[metric] = [to_data(figure) for figure in table[number].figures]
        data = to_data(line)
        lines.append({**data, "figures": figures})
    unmatched = []
    for rows in compared.matched.unmatched:
        unmatched.append([{"system": row.system, "case": row.case} for row in rows])
    data = {
        "schema_version": _SCHEMA_VERSION,
        "sources": list(compared.matched.names),
        "axes": list(compared.matched.axes),
        "equal": list(compared.matched.equal),
        "lines": lines,
        "unmatched": unmatched,
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def _known_figures(compared: Compared) -> Iterator[Figure]:
    for _, lines in compared.tables:
        for line in lines:
            for figure in line.figures:
                if figure is not None:
                    yield figure


def _runs_text(figure: Figure, *, row: Row) -> str:
    if row.origin.kind is not RowKind.MEASURED:
        return row.origin.kind.value
    if figure.spread_pct is None:
        return f"{figure.num_runs}"
    return f"{figure.num_runs}, {percent(figure.spread_pct)}"


def _ratio_cells(figure: Figure) -> list[float | str | None]:
    ratio = figure.ratio
    if ratio is None:
        return [None, None, None, ""]
    return [ratio.value, ratio.low, ratio.high, ratio.why_no_interval]
