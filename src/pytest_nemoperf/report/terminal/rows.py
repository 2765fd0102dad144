"""Rows as a table in the terminal: rows that are too wide have several lines each, and no figure is folded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.report.case_names import names_within
from pytest_nemoperf.report.console import QUIET, fitted, heading, indented, styled, to_text, whole_lines
from pytest_nemoperf.report.row_columns import COLUMNS, Column
from pytest_nemoperf.results.row import Row, RowKind
from pytest_nemoperf.visible import plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType

_NONE = "-"
_GAP = "  "
_INDENT = 2
_NOT_A_DETAIL = ("case", "of", "from")
_TO_BE_COPIED = ("command", "source", "url")
_SPREAD = "figures over the runs; spread is (max - min) / median of tokens/sec/GPU, or of the time of a call"
_PUBLISHED = "published figures are one value each, as printed: no spread"


def render_rows(
    rows: Sequence[Row], *, columns: Sequence[Column], title: str, total: int, width: int, color: bool
) -> str:
    """Return rows as a table below a title.

    Args:
        rows: Rows, in their order.
        columns: Their columns.
        title: Name of their source.
        total: Rows of the source, more than are shown if some were filtered out.
        width: Columns of the terminal.
        color: Whether to use terminal colours.
    """
    return to_text(_table_parts(rows, columns=columns, title=title, total=total, width=width), width=width, color=color)


def render_details(rows: Sequence[Row], *, title: str, total: int, width: int, color: bool) -> str:
    """Return all that is known of each row, one fact a line; see render_rows."""
    return to_text(_detail_parts(rows, title=title, total=total), width=width, color=color)


def render_notes(
    rows: Sequence[Row], *, columns: Sequence[Column], title: str, total: int, width: int, color: bool
) -> str:
    """Return each row on a line, and its note below; see render_rows."""
    return to_text(_noted_parts(rows, columns=columns, title=title, total=total), width=width, color=color)


def table_parts(
    cells: Sequence[Sequence[str]], *, are_text: Sequence[bool], width: int, whole: Collection[int] = ()
) -> Iterator[RenderableType]:
    """Yield a table with its headings in the first row; one that is too wide has several lines a row.

    Texts that are cut stay different from each other.

    Args:
        cells: Plain texts by row.
        are_text: Whether each column is set to the left.
        width: Columns of the terminal.
        whole: Numbers of the columns, from 0, that are not cut even if a cell alone is too wide: paths, to be copied.
    """
    room = max(width - _INDENT, 0)
    columns = []
    for at, column in enumerate(zip(*cells, strict=True)):
        texts = list(map(plain_text, column))
        if at not in whole:
            names = names_within({text: text for text in texts}, width=room) if are_text[at] else {}
            texts = [fitted(names.get(text, text), width=room) for text in texts]
        columns.append([text or _NONE for text in texts])
    safe = list(zip(*columns, strict=True))
    blocks = []
    for group in _line_groups(safe, width=width):
        part = [[row[at] for at in group] for row in safe]
        blocks.append(_aligned(part, are_text=[are_text[at] for at in group]))
    spans: list[tuple[str, str]] = []
    for number in range(len(safe)):
        for at, block in enumerate(blocks):
            indent = " " * _INDENT if at else ""
            spans.append((f"{indent}{block[number]}\n", "" if number else QUIET))
    yield whole_lines(spans)


def row_cells(rows: Sequence[Row], *, columns: Sequence[Column]) -> list[list[str]]:
    """Return headings and cells of rows as plain texts."""
    cells = [[column.heading for column in columns]]
    for row in rows:
        cells.append([column.text(row) for column in columns])
    return cells


def _line_groups(cells: Sequence[Sequence[str]], *, width: int) -> list[list[int]]:
    """Return the columns of each line of a row: as many as fit, in their order."""
    groups: list[list[int]] = [[]]
    used = 0
    for at, needed in enumerate(_widths(cells)):
        room = width - (_INDENT if len(groups) > 1 else 0)
        if groups[-1] and used + len(_GAP) + needed > room:
            groups.append([])
            used = 0
        used += needed + (len(_GAP) if groups[-1] else 0)
        groups[-1].append(at)
    return groups


def _aligned(cells: Sequence[Sequence[str]], *, are_text: Sequence[bool]) -> list[str]:
    """Return one line a row, columns as wide as their widest cell: texts to the left, figures to the right."""
    from rich.cells import cell_len  # noqa: PLC0415 (slow to import)

    widths = _widths(cells)
    lines = []
    for row in cells:
        padded = []
        for cell, width, is_text in zip(row, widths, are_text, strict=True):
            pad = " " * (width - cell_len(cell))
            padded.append(cell + pad if is_text else pad + cell)
        lines.append(_GAP.join(padded).rstrip())
    return lines


def _widths(cells: Sequence[Sequence[str]]) -> list[int]:
    """Return the terminal's columns that the widest cell of each column takes."""
    from rich.cells import cell_len  # noqa: PLC0415 (slow to import)

    return [max(map(cell_len, column)) for column in zip(*cells, strict=True)]


def _head(rows: Sequence[Row], *, title: str, total: int) -> RenderableType:
    shown = count_text(len(rows), "row")
    if len(rows) != total:
        shown = f"{len(rows):,} of {count_text(total, 'row')}"
    return heading(f"{plain_text(title)}: {shown}")


def _table_parts(
    rows: Sequence[Row], *, columns: Sequence[Column], title: str, total: int, width: int
) -> Iterator[RenderableType]:
    yield _head(rows, title=title, total=total)
    if not rows:
        return
    are_text = [column.is_text for column in columns]
    whole = [at for at, column in enumerate(columns) if column.name in _TO_BE_COPIED]
    yield from table_parts(row_cells(rows, columns=columns), are_text=are_text, width=width, whole=whole)
    names = {column.name for column in columns}
    if "spread_pct" in names:
        kinds = {row.origin.kind for row in rows}
        if RowKind.MEASURED in kinds:
            yield styled((_SPREAD, QUIET))
        if kinds - {RowKind.MEASURED}:
            yield styled((_PUBLISHED, QUIET))


def _detail_parts(rows: Sequence[Row], *, title: str, total: int) -> Iterator[RenderableType]:
    yield _head(rows, title=title, total=total)
    for row in rows:
        facts: list[str] = []
        to_be_copied: list[str] = []
        for column in COLUMNS.values():
            text = plain_text(column.text(row))
            if not text or text == _NONE or column.name in _NOT_A_DETAIL:
                continue
            lines = to_be_copied if column.name in _TO_BE_COPIED else facts
            lines.append(f"{column.heading}: {text}")
        for name, version in sorted(row.origin.versions.items()):
            facts.append(f"{plain_text(name)}: {plain_text(version)}")
        yield whole_lines([("\n", ""), (f"{plain_text(row.case)}\n", "bold")])
        yield indented("\n".join(facts))
        yield whole_lines([(f"  {line}\n", "") for line in to_be_copied])


def _noted_parts(rows: Sequence[Row], *, columns: Sequence[Column], title: str, total: int) -> Iterator[RenderableType]:
    yield _head(rows, title=title, total=total)
    for row in rows:
        yield ""
        facts = filter(None, [plain_text(column.text(row)) for column in columns])
        yield styled("  ".join(facts))
        yield indented(plain_text(row.origin.note), columns=4)
