"""``nemoperf compare``: rows of sessions, releases, systems, frameworks or layouts beside each other."""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.cli.baselines_folder import baselines_dir
from pytest_nemoperf.cli.show import add_format_options, write_text
from pytest_nemoperf.cli.terminal import has_color, terminal_width, write_error
from pytest_nemoperf.errors import BaselineError, count_text, did_you_mean
from pytest_nemoperf.pages.row_sources import SourceKind, read_row_set
from pytest_nemoperf.records.metrics import METRICS, TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.report.row_columns import find_column, full_name
from pytest_nemoperf.report.row_selection import parse_condition, sorted_rows
from pytest_nemoperf.report.side_by_side import (
    Compared,
    nothing_matched_text,
    side_by_side_csv,
    side_by_side_json,
    side_by_side_markdown,
)
from pytest_nemoperf.report.terminal.side_by_side import render_side_by_side
from pytest_nemoperf.results.line_figures import line_figures
from pytest_nemoperf.results.row import Row
from pytest_nemoperf.results.row_ratio import main_metric
from pytest_nemoperf.results.side_by_side import FACETS, Line, SideBySide, match_rows
from pytest_nemoperf.visible import plain_text

_FILE_WIDTH: Final = 120
_RATIO: Final = "ratio"
_EPILOG = """\
A and B are a results.json or the folder that holds it, a baseline's or a
release's file, a folder of baselines, system:NAME, release:NAME,
framework:NAME, layout:LABEL, published:SYSTEM, or a bare name if only one of
these has it.

Rows of the same case are set beside each other, or else rows that are equal in
all but what the sources differ by: two systems in all but the system, and so
with frameworks and layouts. --equal names the columns that must be equal.

examples:
  nemoperf compare release:0.4 release:0.5
  nemoperf compare .nemoperf/latest system:h100
  nemoperf compare h100 b200 --metric tokens_per_sec_per_gpu --metric mfu_pct
  nemoperf compare framework:torch framework:megatron --where precision=bf16
  nemoperf compare layout:fsdp8 layout:fsdp4tp2 --sort=-ratio
  nemoperf compare system:h100 published:h100 --all
  nemoperf compare published:gb200 published:gb300 --equal model,precision,gpus
  nemoperf compare release:0.4 release:0.5 --format csv --output delta.csv

columns of --equal:
EQUAL_COLUMNS

exit code:
  0 if rows are set beside each other
  1 if no row of one source has a counterpart in another
  2 if an option is wrong, nothing has that name, or a file can't be trusted
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options, its examples and exit codes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG.replace("EQUAL_COLUMNS", _folded(list(FACETS)))
    parser.add_argument("operands", nargs="+", metavar="A B", help="sources of rows, two or more; ratios are to A")
    parser.add_argument(
        "--baselines", type=Path, metavar="DIR", help="folder of baselines and releases (default: baselines)"
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help=f"metric to compare; repeatable (default: {TOKENS_PER_SEC_PER_GPU.name}, and time per call if any has it)",
    )
    parser.add_argument("--equal", metavar="COLUMN,...", help="columns that must be equal, in place of the cases")
    parser.add_argument(
        "--where", action="append", default=[], metavar="COLUMN=VALUE", help="as of nemoperf show; repeatable"
    )
    parser.add_argument(
        "--sort", metavar="COLUMN", help=f"order of the lines: {_RATIO} or a column of show; descending with a minus"
    )
    parser.add_argument("--all", action="store_true", help="also list the rows without a counterpart")
    add_format_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print rows beside each other; return the exit code.

    Raises:
        NemoPerfError: If an option is wrong, nothing has that name, or a file can't be trusted.
    """
    if len(arguments.operands) < 2:  # noqa: PLR2004 (a comparison has two sides)
        raise BaselineError(f"{arguments.operands[0]}: nothing to compare it with; name another source of rows")
    for operand, number in Counter(arguments.operands).items():
        if number > 1:
            raise BaselineError(f"{operand} is named {number} times; a source beside itself shows nothing: name others")
    folder = baselines_dir(arguments.baselines)
    equal = _equal_columns(arguments.equal)
    conditions = [parse_condition(text, subject="--where") for text in arguments.where]
    metrics = _metrics(arguments.metric)
    _check_sort(arguments.sort)
    sets = [read_row_set(operand, baselines_dir=folder) for operand in arguments.operands]
    sources = []
    for operand, row_set in zip(arguments.operands, sets, strict=True):
        rows = [row for row in row_set.rows if all(condition.holds(row) for condition in conditions)]
        sources.append((operand, rows))
    is_by_layout = all(row_set.kind is SourceKind.LAYOUT for row_set in sets)
    matched = match_rows(sources, is_by_layout=is_by_layout, equal=equal)
    if not matched.lines:
        text = nothing_matched_text(matched, is_filtered=bool(conditions))
        write_error(f"nemoperf: {plain_text(text)}")
        return 1
    text = _text(_figures(matched, metrics=metrics, arguments=arguments), arguments=arguments)
    write_text(text, output=arguments.output, what=count_text(len(matched.lines), "line"))
    return 0


def _figures(matched: SideBySide, *, metrics: Sequence[str], arguments: argparse.Namespace) -> Compared:
    """Return the figures of all lines, in the order of --sort; without metrics, in those that rows are compared by."""
    metrics = metrics or _default_metrics(matched.lines)
    lines = _sorted_lines(matched.lines, metric=metrics[0], sort=arguments.sort)
    matched = replace(matched, lines=tuple(lines))
    tables = []
    for metric in metrics:
        tables.append((metric, tuple([line_figures(line, metric=metric) for line in lines])))
    return Compared(matched=matched, tables=tuple(tables), is_whole=arguments.all)


def _default_metrics(lines: Sequence[Line]) -> list[str]:
    """Return the metrics that rows are compared by; if none has one, the first metric that any has."""
    names: dict[str, None] = {}
    known: set[str] = set()
    for line in lines:
        for row in line.rows:
            if row is None:
                continue
            known |= row.values.keys()
            metric = main_metric(row)
            if metric is not None:
                names[metric.name] = None
    others = [name for name in METRICS if name in known]
    return list(names) or others[:1] or [TOKENS_PER_SEC_PER_GPU.name]


def _sorted_lines(lines: Sequence[Line], *, metric: str, sort: str | None) -> list[Line]:
    """Return lines in order of a ratio or of a column of their first row; those without a value last."""
    if sort is None:
        return list(lines)
    name = sort.removeprefix("-")
    is_descending = sort.startswith("-")
    if name != _RATIO:
        line_of = {id(_first_row(line)): line for line in lines}
        column = find_column(name, subject="--sort")
        rows = sorted_rows(list(map(_first_row, lines)), columns=[(column, is_descending)])
        return [line_of[id(row)] for row in rows]
    ratios = {id(line): _first_ratio(line, metric=metric) for line in lines}
    known = [line for line in lines if ratios[id(line)] is not None]
    unknown = [line for line in lines if ratios[id(line)] is None]
    known.sort(key=lambda line: ratios[id(line)] or 0.0, reverse=is_descending)
    return [*known, *unknown]


def _first_row(line: Line) -> Row:
    return next(row for row in line.rows if row is not None)


def _first_ratio(line: Line, *, metric: str) -> float | None:
    """Return the ratio of the first source that has one to the first source of all."""
    for figure in line_figures(line, metric=metric).figures:
        if figure is not None and figure.ratio is not None:
            return figure.ratio.value
    return None


def _text(compared: Compared, *, arguments: argparse.Namespace) -> str:
    match arguments.format:
        case "csv":
            return side_by_side_csv(compared)
        case "json":
            return side_by_side_json(compared)
        case "markdown":
            return side_by_side_markdown(compared)
        case _:
            width = _FILE_WIDTH if arguments.output else terminal_width()
            color = has_color() and not arguments.output
            return render_side_by_side(compared, width=width, color=color) + "\n"


def _equal_columns(text: str | None) -> list[str]:
    names = []
    for name in text.split(",") if text is not None else ():
        column = full_name(name.strip())
        if column not in FACETS:
            raise BaselineError(f"--equal: unknown column {name.strip()!r}; {did_you_mean(name.strip(), FACETS)}")
        names.append(column)
    return names


def _metrics(names: Sequence[str]) -> list[str]:
    """Return the metrics that ``--metric`` names, each once."""
    metrics = list(dict.fromkeys(map(full_name, names)))
    for name in metrics:
        if name not in METRICS:
            raise BaselineError(f"--metric={name}: unknown metric; {did_you_mean(name, METRICS)}")
    return metrics


def _check_sort(sort: str | None) -> None:
    if sort is not None and sort.removeprefix("-") != _RATIO:
        find_column(sort.removeprefix("-"), subject="--sort")


def _folded(names: Sequence[str]) -> str:
    """Return names in lines of the help."""
    return textwrap.fill(" ".join(names), 78, initial_indent="  ", subsequent_indent="  ")
