"""Rendered reports, taken apart by headings and names."""

from __future__ import annotations

import re

from pytest_nemoperf.report.terminal.failure import render_failure
from pytest_nemoperf.results.cases import CaseReport


def lines_of(report: CaseReport, *, width: int = 100) -> list[str]:
    """Return the lines of a failing case's report."""
    return render_failure(report, width=width, color=False).splitlines()


def section(lines: list[str], *, heading: str) -> list[str]:
    """Return the lines under a heading up to the next blank one."""
    start = next(number for number, line in enumerate(lines) if line.startswith(heading)) + 1
    rest = [*lines[start:], ""]
    return rest[: rest.index("")]


def table(lines: list[str], *, key: str, column: str = "") -> dict[str, dict[str, str]]:
    """Return the rows of the first printed table with these columns by their cell in the key column, cells by heading.

    Columns are two or more spaces apart. A heading that occurs twice follows the one before it: ``peak GiB delta``.
    """
    rows = [re.split(r" {2,}", line.strip()) for line in lines]
    start = next(number for number, row in enumerate(rows) if {key, column or key} <= {*row} and len(row) > 1)
    headings = rows[start]
    names = []
    for number, heading in enumerate(headings):
        names.append(f"{headings[number - 1]} {heading}" if headings.count(heading) > 1 else heading)
    found = {}
    for row in rows[start + 1 :]:
        if len(row) != len(names):
            break
        cells = dict(zip(names, row, strict=True))
        found[cells[key]] = cells
    return found


def facts(text: str) -> dict[str, str]:
    """Return the values of the lines ``name  value`` that are not indented, folded ones up to the fold."""
    values = {}
    for line in text.splitlines():
        name, gap, value = line.partition("  ")
        if name and gap:
            values[name] = value.strip()
    return values


def page_tables(lines: list[str]) -> list[list[dict[str, str]]]:
    """Return the tables of a Markdown page: rows in their order, cells by heading."""
    tables = []
    for block in "\n".join(lines).split("\n\n"):
        rows = [line.strip("|").split("|") for line in block.splitlines() if line.startswith("|")]
        if rows:
            head, _, *others = [[cell.strip() for cell in row] for row in rows]
            tables.append([dict(zip(head, row, strict=True)) for row in others])
    return tables


def case_rows(lines: list[str], *, column: str, title: str = "case") -> dict[str, dict[str, str]]:
    """Return the rows of the first table of cases with this column by their short name, cells by heading.

    A heading is its two lines: ``tokens/s/GPU``, ``step ms``; a change follows the heading before it: ``peak GiB
    change``. A case that is not named again is that of the row above; its rows are told apart by the first cell.
    """
    for number, line in enumerate(lines):
        if re.match(rf" *{title} {{2,}}", line):
            headings = _two_line_headings(lines[number - 1], line)
            if column in headings:
                break
    else:
        raise AssertionError(f"no table with {column} in {lines}")
    found: dict[str, dict[str, str]] = {}
    name = ""
    indent = len(line) - len(line.lstrip())
    for row in lines[number + 1 :]:
        cells = re.split(r" {2,}", row.strip())
        if not row[indent:].startswith(" "):
            name, *cells = cells
        if len(cells) != len(headings):
            break
        key = f"{name} {cells[0]}" if headings[0] == "phase" else name
        found[key] = dict(zip(headings, cells, strict=True))
    return found


def _two_line_headings(upper: str, lower: str) -> list[str]:
    headings: list[str] = []
    for match in list(re.finditer(r"\S+(?: \S+)*", lower))[1:]:
        above = ""
        if upper[match.end() - 1 : match.end()].strip():
            above = upper[: match.end()].rpartition("  ")[2].strip()
        text = match[0]
        if text == "change" and headings[-1] != "phase":
            text = f"{headings[-1]} change"
        elif above:
            text = above + text if text.startswith("/") else f"{above} {text}"
        headings.append(text)
    return headings
