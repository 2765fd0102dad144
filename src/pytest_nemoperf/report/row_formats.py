"""Rows as CSV, JSON and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from pytest_nemoperf.json_codec import to_data
from pytest_nemoperf.recipes.systems import system_catalog
from pytest_nemoperf.report.escape import csv_cell, markdown_text
from pytest_nemoperf.report.markdown.row_tables import call_table, pretrain_table, rl_table
from pytest_nemoperf.report.row_columns import COLUMNS, Column
from pytest_nemoperf.report.tables import table_lines
from pytest_nemoperf.results.row import Row

_SCHEMA_VERSION: Final = 1


def csv_text(rows: Sequence[Row], *, columns: Sequence[Column] = tuple(COLUMNS.values())) -> str:
    """Return rows as CSV with a line of names, numbers unrounded; an empty cell for a value that is not known.

    Texts that a spreadsheet would take for formulas have an apostrophe in front.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([column.name for column in columns])
    for row in rows:
        writer.writerow([csv_cell(column.value_of(row)) for column in columns])
    return file.getvalue()


def json_text(rows: Sequence[Row], *, title: str, kind: str) -> str:
    """Return rows as JSON, each with all that is known of it, in ASCII.

    Args:
        rows: The rows.
        title: Name of their source.
        kind: Kind of their source.
    """
    data = {
        "schema_version": _SCHEMA_VERSION,
        "title": title,
        "kind": kind,
        "rows": [to_data(row) for row in rows],
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def markdown_page(rows: Sequence[Row]) -> str:
    """Return rows as the tables of performance pages: one a system and precision, by workload."""
    trained = [row for row in rows if row.model and row.rollouts is None]
    rl = [row for row in rows if row.rollouts is not None]
    others = [row for row in rows if not row.model]
    lines: list[str] = []
    for (system, precision), group in groupby(sorted(trained, key=_trained_key), key=_trained_key):
        title = f"System: {_title(system)}. Precision: {precision or 'not known'}"
        lines += [f"#### {markdown_text(title)}", "", *pretrain_table(list(group)), ""]
    for (system, precision, generated), group in groupby(sorted(rl, key=_rl_key), key=_rl_key):
        title = f"System: {_title(system)}. Precision: Training {precision}, Generation {generated}."
        lines += [f"#### {markdown_text(title)}", "", *rl_table(list(group)), ""]
    for system, group in groupby(sorted(others, key=lambda row: row.system), key=lambda row: row.system):
        lines += [f"#### {markdown_text(f'System: {_title(system)}')}", "", *call_table(list(group)), ""]
    return "\n".join(lines)


def markdown_columns(rows: Sequence[Row], *, columns: Sequence[Column]) -> str:
    """Return rows as one Markdown table of these columns."""
    cells = [[column.text(row) or "n/a" for column in columns] for row in rows]
    return "\n".join([*table_lines([column.heading for column in columns], rows=cells), ""])


def _title(system: str) -> str:
    """Return a system's title on pages; the name of one that is not in the catalog."""
    catalog = system_catalog()
    return catalog[system].title if system in catalog else system


def _trained_key(row: Row) -> tuple[str, str]:
    return row.system, row.precision


def _rl_key(row: Row) -> tuple[str, str, str]:
    return row.system, row.precision, "" if row.rollouts is None else row.rollouts.precision
