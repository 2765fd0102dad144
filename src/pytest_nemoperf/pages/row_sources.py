"""Rows by the name of their source: results of a session, folders of baselines, releases, systems, frameworks, layouts.

Every file is checked against its schema; one that can't be read is an error with its path.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.baselines.files import list_baselines, read_baseline
from pytest_nemoperf.errors import BaselineError, did_you_mean
from pytest_nemoperf.frameworks.builtin import builtin_frameworks
from pytest_nemoperf.json_codec import read_json
from pytest_nemoperf.pages.own_published import own_published
from pytest_nemoperf.pages.releases import PUBLISHED_FOLDER, RELEASES_FOLDER, read_release, release_path, stored_systems
from pytest_nemoperf.pages.stored_rows import RESULTS_FILE, baseline_rows, read_session
from pytest_nemoperf.published.files import published_rows
from pytest_nemoperf.published.row import PublishedRows
from pytest_nemoperf.recipes.systems import system_catalog
from pytest_nemoperf.report.row_overview import SystemCounts
from pytest_nemoperf.results.row import Release, Row
from pytest_nemoperf.results.rows import layout_label, row_of_baseline, row_of_published
from pytest_nemoperf.runs.replay import CASE_FILE

_ABOVE_CASES: Final = ("", "*/", "*/*/", "*/*/*/")
"""Folders above that of a case's runs: it itself, a session's, that of all sessions, and the state folder."""


class SourceKind(StrEnum):
    """Kind of a source of rows; the prefix of its unambiguous spelling, but for paths."""

    RESULTS = "results"
    BASELINES = "baselines"
    RELEASE = "release"
    SYSTEM = "system"
    PUBLISHED = "published"
    FRAMEWORK = "framework"
    LAYOUT = "layout"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSet:
    """Rows of one source.

    Attributes:
        title: Name of the source for people.
        rows: Its rows: of results in the order they ran, of a release as frozen, of baselines by system and case.
        kind: Kind of the source.
    """

    title: str
    rows: tuple[Row, ...]
    kind: SourceKind


def read_row_set(operand: str, *, baselines_dir: Path) -> RowSet:
    """Return the rows that an operand of the command line names.

    Args:
        operand: Path of a results.json, of a release's file, of a folder of one of these or of baselines;
            ``release:NAME``, ``system:NAME``, ``published:SYSTEM``, ``framework:NAME``, ``layout:LABEL``; or a bare
            name, if only one of these has it.
        baselines_dir: Folder of baselines and releases.

    Raises:
        BaselineError: If nothing, or more than one source, has that name, or a file can't be trusted.
    """
    prefix, colon, name = operand.partition(":")
    if colon and prefix in _READERS:
        return _READERS[SourceKind(prefix)](name, baselines_dir)
    return _of_bare_name(operand, baselines_dir)


def read_published(system: str, *, baselines_dir: Path, is_excluded: bool = False) -> RowSet:
    """Return the published rows of a system, or of all.

    Args:
        system: Its name; empty for all.
        baselines_dir: Folder of baselines; a system that only it has is known too.
        is_excluded: Those that are no baselines, with the reason as their note, in place of the others.

    Raises:
        BaselineError: If the system is not known, or a file can't be trusted.
    """
    if system:
        _check_system(system, baselines_dir)
    rows: dict[str, Row] = {}
    for file in _published_files(system, baselines_dir):
        if is_excluded:
            rows |= {each.row.id: row_of_published(each.row, note=each.reason) for each in file.excluded}
        else:
            rows |= {row.id: row_of_published(row) for row in file.rows}
    of = system or "all systems"
    title = f"published rows of {of} that are no baselines" if is_excluded else f"published rows of {of}"
    of_system = [row for row in rows.values() if system in ("", row.system)]
    return RowSet(title=title, rows=tuple(of_system), kind=SourceKind.PUBLISHED)


def count_systems(baselines_dir: Path, *, releases: Sequence[Release]) -> list[SystemCounts]:
    """Return the numbers of rows of each known system; releases are all that there are.

    Raises:
        BaselineError: If a file of published rows can't be trusted.
    """
    released = Counter[str]()
    for release in releases:
        released.update(row.system for row in release.rows)
    published = Counter([row.system for row in read_published("", baselines_dir=baselines_dir).rows])
    left_out = read_published("", baselines_dir=baselines_dir, is_excluded=True)
    excluded = Counter([row.system for row in left_out.rows])
    catalog = system_catalog()
    counts = []
    for name in known_systems(baselines_dir):
        counts.append(
            SystemCounts(
                system=name,
                title=catalog[name].title if name in catalog else "",
                baselines=len(list_baselines(baselines_dir, system=name)),
                released=released[name],
                published=published[name],
                excluded=excluded[name],
            )
        )
    return counts


def _published_files(system: str, baselines_dir: Path) -> Iterator[PublishedRows]:
    """Yield the shipped rows of a system, or of all, then those of the project."""
    for name in [system] if system else system_catalog():
        yield published_rows(name)
    yield from own_published(baselines_dir)


def known_systems(baselines_dir: Path) -> list[str]:
    """Return the systems of the catalog and those that have baselines."""
    return sorted({*system_catalog(), *stored_systems(baselines_dir)})


def known_releases(baselines_dir: Path) -> list[str]:
    """Return the names of the releases' files."""
    return sorted(path.stem for path in (baselines_dir / RELEASES_FOLDER).glob("*.json"))


def _of_bare_name(operand: str, baselines_dir: Path) -> RowSet:
    spellings: dict[SourceKind, str] = {}
    path = Path(operand)
    if operand and path.exists():
        spellings[SourceKind.BASELINES] = str(path) if "/" in operand else f"./{operand}"
    if operand in known_releases(baselines_dir):
        spellings[SourceKind.RELEASE] = f"release:{operand}"
    if operand in known_systems(baselines_dir):
        spellings[SourceKind.SYSTEM] = f"system:{operand}"
    if operand in builtin_frameworks():
        spellings[SourceKind.FRAMEWORK] = f"framework:{operand}"
    stored: list[Row] = []
    if not spellings:  # only then is it worth reading them all
        stored = list(baseline_rows(baselines_dir))
        if operand in _frameworks(stored):
            spellings[SourceKind.FRAMEWORK] = f"framework:{operand}"
        if operand in _layouts(stored):
            spellings[SourceKind.LAYOUT] = f"layout:{operand}"
    if not spellings:
        known = {
            *known_releases(baselines_dir),
            *known_systems(baselines_dir),
            *builtin_frameworks(),
            *_frameworks(stored),
            *_layouts(stored),
        }
        raise BaselineError(
            f"{operand}: neither a file or folder nor a release, system, framework or layout; "
            f"{did_you_mean(operand, known)}"
        )
    if len(spellings) > 1:
        raise BaselineError(f"{operand} names several sources of rows; write {' or '.join(spellings.values())}")
    (kind,) = spellings
    if kind is SourceKind.BASELINES:
        return _of_path(path)
    return _READERS[kind](operand, baselines_dir)


def _of_path(path: Path) -> RowSet:
    if path.is_dir():
        if (path / RESULTS_FILE).exists():
            return _of_file(path / RESULTS_FILE)
        return _of_folder(path)
    return _of_file(path)


def _of_file(path: Path) -> RowSet:
    """Return the rows of a results file, a release's file or a baseline, by the keys that it has."""
    data = read_json(path, error=BaselineError)
    keys: set[Any] = set(data) if isinstance(data, dict) else set()
    if "cases" in keys:
        results, rows = read_session(path)
        return RowSet(title=f"{path}, {results.system_title}", rows=tuple(rows), kind=SourceKind.RESULTS)
    if "rows" in keys and not keys & {"name", "date"}:
        raise BaselineError(f"{path}: holds published rows; name their system, as published:{path.stem}")
    if "rows" in keys:
        release = read_release(path)
        return RowSet(title=f"release {release.name}", rows=release.rows, kind=SourceKind.RELEASE)
    if "runs" in keys:
        baseline = read_baseline(path, is_in_place=False)
        row = row_of_baseline(baseline, path=str(path))
        return RowSet(title=str(path), rows=(row,), kind=SourceKind.BASELINES)
    raise BaselineError(f"{path}: holds none of cases, rows and runs; give a results.json, a release or a baseline")


def _of_folder(path: Path) -> RowSet:
    """Return the rows of a folder of baselines, or of the folder of one system."""
    if path.name == RELEASES_FOLDER:
        raise BaselineError(f"{path}: is the folder of all releases; name one of them, as release:NAME")
    if path.name == PUBLISHED_FOLDER:
        raise BaselineError(f"{path}: is the folder of published rows; name their system, as published:h100")
    if any(any(path.glob(f"{above}{CASE_FILE}")) for above in _ABOVE_CASES):
        raise BaselineError(
            f"{path}: holds runs as they were measured; give the folder of a session's results, by default "
            ".nemoperf/latest, or judge the runs of a session again (pytest -m perf --perf-replay=DIR)"
        )
    files = sorted(path.glob("*.json"))
    if not files:
        for system in stored_systems(path):
            files += list_baselines(path, system=system)
    if not files:
        raise BaselineError(
            f"{path}: holds neither {RESULTS_FILE} nor baselines; give the folder of a session's results, of "
            "<system>/<case>.json, or of one system"
        )
    rows = [row_of_baseline(read_baseline(file), path=str(file)) for file in files]
    return RowSet(title=str(path), rows=tuple(rows), kind=SourceKind.BASELINES)


def _of_release(name: str, baselines_dir: Path) -> RowSet:
    known = known_releases(baselines_dir)
    if name not in known:
        there = did_you_mean(name, known) if known else "there is none yet: nemoperf release makes one"
        raise BaselineError(f"release {name!r}: no such file in {baselines_dir / RELEASES_FOLDER}; {there}")
    release = read_release(release_path(baselines_dir, name=name))
    return RowSet(title=f"release {release.name} of {release.date}", rows=release.rows, kind=SourceKind.RELEASE)


def _of_system(name: str, baselines_dir: Path) -> RowSet:
    _check_system(name, baselines_dir)
    rows = tuple(baseline_rows(baselines_dir, system=name))
    return RowSet(title=f"baselines of {name} in {baselines_dir}", rows=rows, kind=SourceKind.SYSTEM)


def _of_published(name: str, baselines_dir: Path) -> RowSet:
    if not name:
        raise BaselineError("published: names no system; write e.g. published:h100")
    return read_published(name, baselines_dir=baselines_dir)


def _of_framework(name: str, baselines_dir: Path) -> RowSet:
    stored = list(baseline_rows(baselines_dir))
    rows = tuple(row for row in stored if row.framework == name)
    if not rows:
        known = _frameworks(stored)
        there = did_you_mean(name, known) if known else "there is no baseline of any"
        raise BaselineError(f"framework {name!r} has no baseline in {baselines_dir}; {there}")
    return RowSet(title=f"baselines of {name} in {baselines_dir}", rows=rows, kind=SourceKind.FRAMEWORK)


def _of_layout(label: str, baselines_dir: Path) -> RowSet:
    stored = list(baseline_rows(baselines_dir))
    rows = tuple(row for row in stored if layout_label(row) == label)
    if not rows:
        known = _layouts(stored)
        there = did_you_mean(label, known) if known else "there is no baseline of any"
        raise BaselineError(f"layout {label!r} has no baseline in {baselines_dir}; {there}")
    return RowSet(title=f"baselines of layout {label} in {baselines_dir}", rows=rows, kind=SourceKind.LAYOUT)


_READERS: Final[dict[SourceKind, Callable[[str, Path], RowSet]]] = {
    SourceKind.RELEASE: _of_release,
    SourceKind.SYSTEM: _of_system,
    SourceKind.PUBLISHED: _of_published,
    SourceKind.FRAMEWORK: _of_framework,
    SourceKind.LAYOUT: _of_layout,
}


def _check_system(name: str, baselines_dir: Path) -> None:
    known = known_systems(baselines_dir)
    if name not in known:
        raise BaselineError(f"unknown system {name!r}; {did_you_mean(name, known)}")


def _frameworks(rows: list[Row]) -> set[str]:
    return {row.framework for row in rows} - {""}


def _layouts(rows: list[Row]) -> set[str]:
    return set(map(layout_label, rows)) - {""}
