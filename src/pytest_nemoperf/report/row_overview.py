"""Overview of the rows there are: numbers by system, and releases."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Final

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.report.console import heading, indented, section, to_text
from pytest_nemoperf.report.escape import csv_cell
from pytest_nemoperf.report.tables import table_lines
from pytest_nemoperf.report.terminal.rows import table_parts
from pytest_nemoperf.results.row import Release
from pytest_nemoperf.visible import plain_text

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemCounts:
    """Numbers of rows of a system.

    Attributes:
        system: Its name.
        title: As pages print it; empty for a system that is not in the catalog.
        baselines: Files of stored baselines.
        released: Rows of all releases.
        published: Rows of published pages that are baselines.
        excluded: Rows of published pages that are none.
    """

    system: str
    title: str
    baselines: int
    released: int
    published: int
    excluded: int


_NUM_TEXTS: Final = 2
_HINTS: Final = (
    "nemoperf show SYSTEM: its baselines",
    "nemoperf show --published SYSTEM: published rows, what is promised of it",
    "nemoperf show --published --excluded SYSTEM: rows that are no baselines",
)


def overview_text(counts: Sequence[SystemCounts], *, releases: Sequence[Release], width: int, color: bool) -> str:
    """Return the overview for the terminal."""
    return to_text(_parts(counts, releases=releases, width=width), width=width, color=color)


def overview_csv(counts: Sequence[SystemCounts]) -> str:
    """Return the numbers by system as CSV."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerows([list(map(csv_cell, row)) for row in _cells(counts)])
    return file.getvalue()


def overview_json(counts: Sequence[SystemCounts], *, releases: Sequence[Release]) -> str:
    """Return the numbers by system and by release as JSON."""
    listed = [{"name": each.name, "date": each.date, "rows": len(each.rows)} for each in releases]
    data = {"schema_version": 1, "systems": list(map(asdict, counts)), "releases": listed}
    return json.dumps(data, indent=2) + "\n"


def overview_markdown(counts: Sequence[SystemCounts]) -> str:
    """Return the numbers by system as a Markdown table."""
    headings, *rows = _cells(counts)
    return "\n".join([*table_lines(headings, rows=rows), ""])


def _parts(counts: Sequence[SystemCounts], *, releases: Sequence[Release], width: int) -> Iterator[RenderableType]:
    yield heading("rows by system")
    cells = _cells(counts)
    are_text = [at < _NUM_TEXTS for at in range(len(cells[0]))]
    yield from table_parts(cells, are_text=are_text, width=width)
    if releases:
        yield section("releases, the newest first")
    for release in releases:
        yield indented(plain_text(f"{release.name} of {release.date}: {count_text(len(release.rows), 'row')}"))
    yield ""
    yield from map(indented, _HINTS)


def _cells(counts: Sequence[SystemCounts]) -> list[list[str]]:
    names = [field.name for field in fields(SystemCounts)]
    return [names, *[[str(getattr(each, name)) for name in names] for each in counts]]
