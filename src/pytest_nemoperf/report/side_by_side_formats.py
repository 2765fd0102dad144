"""Rows beside each other as CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import io
import json
from typing import Any, Final

from pytest_nemoperf.json_codec import to_data
from pytest_nemoperf.records.metrics import METRICS
from pytest_nemoperf.report.escape import markdown_cell, markdown_text
from pytest_nemoperf.report.row_formats import csv_cell
from pytest_nemoperf.report.side_by_side_text import (
    Compared,
    compared_sentence,
    has_figures,
    headings,
    line_cells,
    notes,
    unmatched_labels,
    unmatched_sentence,
)
from pytest_nemoperf.report.tables import ready_table
from pytest_nemoperf.results.line_figures import Figure

_SCHEMA_VERSION: Final = 1


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


def _ratio_cells(figure: Figure) -> list[float | str | None]:
    ratio = figure.ratio
    if ratio is None:
        return [None, None, None, ""]
    return [ratio.value, ratio.low, ratio.high, ratio.why_no_interval]
