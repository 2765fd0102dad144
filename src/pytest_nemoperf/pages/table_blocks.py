"""Blocks of tables: measured rows, the native engine's, releases, published rows."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.pages.groups import Table, TableSection, grouped, system_title
from pytest_nemoperf.pages.reproduction import details_lines, folded
from pytest_nemoperf.pages.selection import NATIVE, RL, Section, Selection
from pytest_nemoperf.pages.sources import PageRows, is_branch, version_key
from pytest_nemoperf.published.row import ExcludedRow
from pytest_nemoperf.report.escape import code, markdown_cell
from pytest_nemoperf.report.markdown.row_tables import pretrain_table, rl_table
from pytest_nemoperf.results.row import Row, RowKind

_HASH_LENGTH: Final = 12
_DAY_LENGTH: Final = len("2026-01-31")
_SUPERSEDED: Final = "superseded"
_SAFE_URL: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~:/#@%+=&?")


@dataclass(frozen=True, slots=True)
class _Origin:
    """Page that published rows are of, a line under the heading of their release."""

    kind: RowKind
    source: str
    url: str
    commit: str
    date: str


def tables_block(rows: PageRows, selection: Selection) -> list[str]:
    """Return the tables of measured rows; a system without results keeps an empty one and the command for it."""
    chosen = selection.of(rows.measured)
    sections = grouped(chosen, selection=selection, has_empty=True)
    lines = _section_lines(sections, selection=selection, rows=rows, release=rows.release)
    if lines:
        return lines
    framework = selection.frameworks[0] if selection.frameworks else ""
    command = _update_command(selection, system="auto", framework=framework, section=None)
    return [f"No results yet. {code(command)} fills this section.", ""]


def native_block(rows: PageRows, selection: Selection) -> list[str]:
    """Return the tables of the rows that the native engine measured, of every system that it has measured on."""
    chosen = selection.of(rows.measured, is_native=True)
    if not chosen:
        command = _update_command(selection, system="cpu", framework=NATIVE, section=None)
        return [f"No results yet. {code(command)} fills this section on a machine without GPUs.", ""]
    sections = grouped(chosen, selection=selection, has_empty=False)
    return _section_lines(sections, selection=selection, rows=rows, release=rows.release)


def releases_block(rows: PageRows, selection: Selection) -> list[str]:
    """Return a section for each release, newest first: its frozen rows, and the published rows that belong to it.

    Releases of this project alone stand before those of published pages, branches of published pages behind them.
    """
    printed: dict[str, list[Row]] = {}
    for row in selection.of(rows.published):
        printed.setdefault(row.origin.release, []).append(row)
    rows_of: dict[str, list[Row]] = {}
    for release in rows.releases:  # those of no page come first: their names need not be comparable with a page's
        if release.name not in printed:
            rows_of[release.name] = selection.of(release.rows)
    frozen = {release.name: selection.of(release.rows) for release in rows.releases}
    for name in sorted(printed, key=version_key, reverse=True):
        rows_of[name] = [*frozen.get(name, ()), *printed[name]]
    return _releases(rows_of, rows=rows, selection=selection)


def published_block(rows: PageRows, selection: Selection) -> list[str]:
    """Return a section for each release of published pages, newest first."""
    rows_of: dict[str, list[Row]] = {}
    for row in sorted(selection.of(rows.published), key=lambda row: version_key(row.origin.release), reverse=True):
        rows_of.setdefault(row.origin.release, []).append(row)
    return _releases(rows_of, rows=rows, selection=selection)


def _releases(rows_of: Mapping[str, Sequence[Row]], *, rows: PageRows, selection: Selection) -> list[str]:
    names = selection.releases or tuple(rows_of)
    if rows.release:
        names = tuple([name for name in names if name == rows.release])
    frozen = {release.name for release in rows.releases}
    lines: list[str] = []
    for name in names:
        chosen = rows_of.get(name, [])
        if not chosen and not selection.releases:
            continue
        title = f"{markdown_cell(selection.title)} {markdown_cell(name)}"
        if chosen and name not in frozen and is_branch(name):
            title = f"Branch {markdown_cell(name)}, as of {markdown_cell(_newest_day(chosen))}"
        lines += [f"{'#' * selection.level} {title}", ""]
        if not chosen:
            lines += ["No rows of this section are of this release.", ""]
        sections = grouped(chosen, selection=selection, has_empty=False)
        lines += _section_lines(sections, selection=selection, rows=rows, release=name)
        lines += _without_rows(chosen, selection=selection)
        lines += _excluded_lines([each for each in rows.excluded if each.row.release == name], selection=selection)
    if not lines:
        return ["No release has rows for this section yet.", ""]
    return lines


def _newest_day(rows: Iterable[Row]) -> str:
    """Return the day of the newest row; pages of a branch change without a new name."""
    return max([row.origin.date for row in rows])[:_DAY_LENGTH] or "an unknown day"


def _section_lines(
    sections: Sequence[TableSection], *, selection: Selection, rows: PageRows, release: str
) -> list[str]:
    """Return the sources of published rows, then sections and tables with the source's mark at each such row."""
    chosen = [row for section in sections for table in section.tables for row in table.rows]
    marks = _source_marks(chosen)
    lines = _source_lines(marks)
    for section in sections:
        if section.title:
            lines += [f"### {section.title}", ""]
        for table in section.tables:
            lines += [f"#### {table.title}", ""]
            if table.rows:
                lines += _table_lines(table.rows, marks=marks, selection=selection, rows=rows)
            else:
                lines += _empty_lines(table, section=section.section, selection=selection, release=release)
    return lines


def _table_lines(
    table_rows: Sequence[Row], *, marks: Mapping[_Origin, str], selection: Selection, rows: PageRows
) -> list[str]:
    marked = []
    for row in table_rows:
        mark = marks.get(_origin(row), "")
        marked.append(replace(row, model=f"{row.model} {mark}") if mark else row)
    return [*_render(marked, selection=selection), "", *details_lines(table_rows, printed=rows.printed)]


def _empty_lines(table: Table, *, section: Section | None, selection: Selection, release: str) -> list[str]:
    framework = selection.frameworks[0] if selection.frameworks else ""
    command = _update_command(selection, system=table.system, framework=framework, section=section)
    return [*_render((), selection=selection), "", _empty_line(command, release=release), ""]


def _render(rows: Sequence[Row], *, selection: Selection) -> list[str]:
    return rl_table(rows) if selection.is_rl else pretrain_table(rows)


def _empty_line(command: str, *, release: str) -> str:
    if release:
        freeze = shlex.join(["nemoperf", "release", release])
        return f"No results. {code(command)} measures them, and {code(freeze)} puts them into this release."
    return f"No results yet. {code(command)} fills this table."


def _update_command(selection: Selection, *, system: str, framework: str, section: Section | None) -> str:
    words = ["pytest", "-m", "perf", f"--system={system}"]
    if framework and framework != NATIVE:
        words.append(f"--perf-framework={framework}")
    words += ["-k", section.algorithm if section is not None else selection.workload, "--update-baselines"]
    return shlex.join(words)


def _source_marks(rows: Sequence[Row]) -> dict[_Origin, str]:
    """Return the sources of published rows with their marks; empty marks if all rows are of one source."""
    origins: dict[_Origin, None] = {}
    for row in rows:
        if row.origin.kind is not RowKind.MEASURED:
            origins[_origin(row)] = None
    has_marks = len(origins) > 1 or any(row.origin.kind is RowKind.MEASURED for row in rows)
    return {origin: f"[{number}]" if has_marks else "" for number, origin in enumerate(origins, start=1)}


def _source_lines(marks: Mapping[_Origin, str]) -> list[str]:
    lines = []
    for origin, mark in marks.items():
        line = _origin_line(origin)
        lines.append(f"- {markdown_cell(mark)} {line}" if mark else line)
    return [*lines, ""] if lines else []


def _origin(row: Row) -> _Origin:
    origin = row.origin
    return _Origin(origin.kind, origin.source, origin.url, origin.commit, origin.date)


def _origin_line(origin: _Origin) -> str:
    word = "Draft, never released" if origin.kind is RowKind.DRAFT else "Published"
    facts = [f"{word}: {_link(origin.source, url=origin.url)}"]
    if origin.commit:
        facts.append(f"commit {code(origin.commit[:_HASH_LENGTH])}")
    if origin.date:
        facts.append(markdown_cell(origin.date))
    return f"{', '.join(facts)}."


def _link(text: str, *, url: str) -> str:
    shown = markdown_cell(text)
    if url.startswith("https://") and set(url) <= _SAFE_URL:
        return f"[{shown}]({url})"
    return f"{shown}, {code(url)}" if url else shown


def _without_rows(rows: Sequence[Row], *, selection: Selection) -> list[str]:
    """Return a line that names the systems of which a release has no rows."""
    present = {row.system for row in rows}
    titles = [system_title(name) for name in selection.systems if name not in present]
    if not titles:
        return []
    return [f"Without rows: {', '.join(titles)}.", ""]


def _excluded_lines(excluded: Sequence[ExcludedRow], *, selection: Selection) -> list[str]:
    """Return a line that counts the published rows that no table shows, and their reasons, folded."""
    items = []
    num_superseded = 0
    for each in excluded:
        row = each.row
        is_chosen = row.task == selection.workload or (selection.workload == RL and row.rollouts is not None)
        has_framework = not selection.frameworks or row.framework in selection.frameworks
        has_system = not selection.systems or row.system in selection.systems
        if is_chosen and has_framework and has_system:
            title = f"{markdown_cell(row.model)} on {system_title(row.system)}: {code(row.id)}"
            items.append((title, [markdown_cell(each.reason)]))
            num_superseded += each.reason.startswith(_SUPERSEDED)
    if not items:
        return []
    counts = []
    if num_superseded:
        counts.append(f"{count_text(num_superseded, 'row')} that a later page prints again or replaces")
    if len(items) > num_superseded:
        contradicting = count_text(len(items) - num_superseded, "row")
        counts.append(f"{contradicting} with figures that contradict each other, or of drafts")
    return folded(f"Published, and not shown: {', '.join(counts)}", items=items)
