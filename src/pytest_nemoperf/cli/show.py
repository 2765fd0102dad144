"""``nemoperf show``: rows of baselines, results, releases and published pages as a table."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.baselines.atomic import write_atomically
from pytest_nemoperf.cli.baselines_folder import baselines_dir
from pytest_nemoperf.cli.terminal import has_color, terminal_width, write, write_error
from pytest_nemoperf.errors import BaselineError, count_text
from pytest_nemoperf.pages.releases import list_releases
from pytest_nemoperf.pages.row_sources import (
    RowSet,
    SourceKind,
    count_systems,
    read_published,
    read_row_set,
)
from pytest_nemoperf.report.row_columns import COLUMNS, Column, default_columns, find_column
from pytest_nemoperf.report.row_formats import csv_text, json_text, markdown_columns, markdown_page
from pytest_nemoperf.report.row_overview import overview_csv, overview_json, overview_markdown, overview_text
from pytest_nemoperf.report.row_selection import has_words, parse_condition, sorted_rows
from pytest_nemoperf.report.terminal.rows import render_details, render_notes, render_rows
from pytest_nemoperf.results.row import Row

_FORMATS: Final = ("table", "csv", "json", "markdown")
_FILE_WIDTH: Final = 120
_EXCLUDED_COLUMNS: Final = ("case", "model", "framework", "precision", "gpus", "release", "source", "note")
"""Columns of rows that are no baselines; the note, which is the reason, stands below a row in the terminal."""
_EPILOG = """\
OPERAND is a system, a release, a framework or the label of a layout, as
system:NAME, release:NAME, framework:NAME or layout:LABEL if two of them have that
name; published:SYSTEM; or the path of a results.json, of a baseline, of a
release's file, or of a folder of baselines. Without it: an overview.

examples:
  nemoperf show
  nemoperf show h100
  nemoperf show --published h100 --where 'gpus>=64' --where 'model=llama*'
  nemoperf show h100 -k llama3 -k 'not fp8' --sort=-tokens_per_sec_per_gpu
  nemoperf show release:0.4 --columns case,tokens,spread,runs,commit
  nemoperf show .nemoperf/latest --format csv --output session.csv
  nemoperf show --published --excluded h100

columns of --where, --sort and --columns:
COLUMN_NAMES

exit code:
  0 if the rows were read, also if none is left
  2 if an option is wrong, nothing has that name, or a file can't be trusted
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options, its examples and exit codes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG.replace("COLUMN_NAMES", _column_names())
    parser.add_argument("operand", nargs="?", default="", metavar="OPERAND", help="source of the rows, see below")
    parser.add_argument("--published", action="store_true", help="published rows of the system OPERAND, or of all")
    parser.add_argument(
        "--excluded", action="store_true", help="with --published: the rows that are no baselines, with the reason"
    )
    parser.add_argument(
        "--baselines", type=Path, metavar="DIR", help="folder of baselines and releases (default: baselines)"
    )
    add_selection_options(parser)
    parser.add_argument("--details", action="store_true", help="all that is known of each row, in place of a table")
    add_format_options(parser)


def add_selection_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose rows, their order and columns."""
    chosen = parser.add_argument_group("rows, their order and columns")
    chosen.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="only rows that have it: text with * and ?, numbers also with !=, <, >, <=, >=; n/a for rows without it; "
        "repeatable",
    )
    chosen.add_argument(
        "-k",
        dest="keywords",
        action="append",
        default=[],
        metavar="WORDS",
        help="only rows whose case, model or framework has all the words, and none behind 'not'; repeatable",
    )
    chosen.add_argument(
        "--sort", metavar="COLUMN,...", help="order of the rows; descending with a minus, as in --sort=-gpus"
    )
    chosen.add_argument("--columns", metavar="COLUMN,...", help="columns of the table, in their order")


def add_format_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose format and file."""
    parser.add_argument(
        "--format", choices=_FORMATS, default="table", help="table for people (default), csv, json or markdown"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead of printing")


def run(arguments: argparse.Namespace) -> int:
    """Print rows, or an overview; return the exit code.

    Raises:
        NemoPerfError: If an option is wrong, nothing has that name, or a file can't be trusted.
    """
    _check(arguments)
    folder = baselines_dir(arguments.baselines)
    width = _FILE_WIDTH if arguments.output else terminal_width()
    color = has_color() and not arguments.output
    if not arguments.operand and not arguments.published:
        text = _overview(folder, arguments=arguments, width=width, color=color)
        write_text(text, output=arguments.output)
        return 0
    source = _source(arguments, folder=folder)
    shown = selected(source, arguments=arguments)
    text = _text(shown, total=len(source.rows), arguments=arguments, width=width, color=color)
    write_text(text, output=arguments.output, what=count_text(len(shown.rows), "row"))
    if not source.rows:
        write_error(_empty_hint(source, arguments=arguments, folder=folder).rstrip("\n"))
    return 0


def selected(source: RowSet, *, arguments: argparse.Namespace) -> RowSet:
    """Return the rows of a source that the options choose, in their order.

    Raises:
        BaselineError: If an option names no column, or breaks its rule.
    """
    conditions = [parse_condition(text, subject="--where") for text in arguments.where]
    words = " ".join(arguments.keywords).split()
    if words and words[-1].lower() == "not":
        raise BaselineError(f"-k {' '.join(words)!r}: a word must follow 'not'")
    rows = []
    for row in source.rows:
        if all(condition.holds(row) for condition in conditions) and has_words(row, words=words):
            rows.append(row)
    return replace(source, rows=tuple(sorted_rows(rows, columns=_sort_columns(arguments.sort))))


def named_columns(text: str | None, *, rows: Sequence[Row]) -> list[Column]:
    """Return the columns that ``--columns`` names; those of the terminal if it is not given.

    Raises:
        BaselineError: If there is no such column.
    """
    if text is None:
        return default_columns(rows)
    columns = []
    for name in text.split(","):
        columns.append(find_column(name.strip(), subject="--columns"))
    return columns


def write_text(text: str, *, output: Path | None, what: str = "") -> None:
    """Print a text, or write it to a file, which then holds all of it or is as it was.

    Args:
        text: The text.
        output: The file; None to print.
        what: Content of the file, for the line that is printed then.

    Raises:
        BaselineError: If the file can't be written.
    """
    if output is None:
        write(text)
        return
    try:
        write_atomically(output, text=text)
    except OSError as exc:
        raise BaselineError(f"--output={output}: cannot be written: {exc.strerror or exc}") from exc
    write(f"{output}: {what}\n" if what else f"{output}\n")


def _check(arguments: argparse.Namespace) -> None:
    if arguments.excluded and not arguments.published:
        raise BaselineError("--excluded only counts with --published: other rows are not sorted out; add it")
    if arguments.details and arguments.format != "table":
        raise BaselineError(f"--details with --format={arguments.format}: csv and json hold all of it; drop --details")
    if arguments.columns is not None and (arguments.format == "json" or arguments.details):
        option = "--details" if arguments.details else "--format=json"
        raise BaselineError(f"--columns with {option}, which has whole rows; drop it, or use --format=csv")
    if not arguments.operand and not arguments.published:
        for option in ("where", "keywords", "sort", "columns", "details"):
            if getattr(arguments, option) not in (None, [], False):
                name = "-k" if option == "keywords" else f"--{option}"
                raise BaselineError(f"{name} without OPERAND: there are no rows to choose from; name a system")


def _source(arguments: argparse.Namespace, *, folder: Path) -> RowSet:
    if not arguments.published:
        return read_row_set(arguments.operand, baselines_dir=folder)
    system = arguments.operand.removeprefix(f"{SourceKind.PUBLISHED}:").removeprefix(f"{SourceKind.SYSTEM}:")
    return read_published(system, baselines_dir=folder, is_excluded=arguments.excluded)


def _text(source: RowSet, *, total: int, arguments: argparse.Namespace, width: int, color: bool) -> str:
    rows = source.rows
    if arguments.format == "json":
        return json_text(rows, title=source.title, kind=source.kind)
    if arguments.format == "csv":
        columns = list(COLUMNS.values())
        if arguments.columns is not None:
            columns = named_columns(arguments.columns, rows=rows)
        return csv_text(rows, columns=columns)
    if arguments.format == "markdown" and arguments.columns is None and not arguments.excluded:
        return markdown_page(rows)
    columns = named_columns(arguments.columns, rows=rows)
    if arguments.excluded and arguments.columns is None:
        columns = [COLUMNS[name] for name in _EXCLUDED_COLUMNS]
    if arguments.format == "markdown":
        return markdown_columns(rows, columns=columns)
    if arguments.details:
        text = render_details(rows, title=source.title, total=total, width=width, color=color)
    elif arguments.excluded and arguments.columns is None:
        text = render_notes(rows, columns=columns[:-1], title=source.title, total=total, width=width, color=color)
    else:
        text = render_rows(rows, columns=columns, title=source.title, total=total, width=width, color=color)
    return text + "\n"


def _overview(folder: Path, *, arguments: argparse.Namespace, width: int, color: bool) -> str:
    releases = list_releases(folder)[::-1]
    counts = count_systems(folder, releases=releases)
    match arguments.format:
        case "csv":
            return overview_csv(counts)
        case "json":
            return overview_json(counts, releases=releases)
        case "markdown":
            return overview_markdown(counts)
        case _:
            return overview_text(counts, releases=releases, width=width, color=color) + "\n"


def _sort_columns(text: str | None) -> list[tuple[Column, bool]]:
    if text is None:
        return []
    columns = []
    for name in text.split(","):
        bare = name.strip()
        columns.append((find_column(bare.removeprefix("-"), subject="--sort"), bare.startswith("-")))
    return columns


def _empty_hint(source: RowSet, *, arguments: argparse.Namespace, folder: Path) -> str:
    """Return advice on a source without rows."""
    if source.kind is SourceKind.SYSTEM:
        system = arguments.operand.rpartition(":")[2]
        return (
            f"nothing is stored for {system} in {folder}: pytest -m perf --system={system} --update-baselines records "
            f"it; nemoperf show --published {system} lists what is promised of it\n"
        )
    if source.kind is SourceKind.RESULTS:
        return "no case of this session is valid: results.md beside it says why\n"
    if source.kind is SourceKind.PUBLISHED and not arguments.excluded:
        return "no page of this system is known; nemoperf show lists the systems that have published rows\n"
    return ""


def _column_names() -> str:
    """Return the names of all columns, folded for the help."""
    lines = [" "]
    for column in COLUMNS.values():
        name = f" {column.name}"
        if column.short:
            name += f" ({column.short})"
        if len(lines[-1]) + len(name) > 78:  # noqa: PLR2004 (columns of a terminal)
            lines.append(" ")
        lines[-1] += name
    return "\n".join(lines)
