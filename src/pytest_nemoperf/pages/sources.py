"""Rows that a page is filled with: stored baselines, results of sessions, releases, published rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.baselines.files import list_baselines, read_baseline
from pytest_nemoperf.errors import PageError, RecipeError, count_text
from pytest_nemoperf.flops.published import published_convention, published_task
from pytest_nemoperf.pages.own_published import own_published
from pytest_nemoperf.pages.releases import RELEASES_FOLDER, list_releases
from pytest_nemoperf.published.files import published_rows
from pytest_nemoperf.published.row import ExcludedRow, PublishedRow
from pytest_nemoperf.recipes.systems import system_catalog
from pytest_nemoperf.records.metrics import TFLOPS_PER_SEC_PER_GPU
from pytest_nemoperf.results.cases import SessionResults
from pytest_nemoperf.results.row import Release, Row
from pytest_nemoperf.results.row_problems import row_problems
from pytest_nemoperf.results.rows import row_of_baseline, row_of_published, rows_of_results
from pytest_nemoperf.schema import read_contract
from pytest_nemoperf.verdict.comparison import VerdictKind

_RESULTS_FILE: Final = "results.json"
_DIGITS: Final = re.compile(r"[0-9]+")
_MAX_DIGITS: Final = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRows:
    """Rows of every source.

    Attributes:
        measured: Rows of stored baselines and sessions; those of a release if one is named.
        releases: Frozen releases, newest first.
        published: Rows of published pages.
        printed: The same rows as their pages print them, by id.
        excluded: Published rows that no table shows, with reasons.
        release: Name of the release that the measured rows are of; empty for none.
        warnings: Sentences on cases of sessions that give no row.
    """

    measured: tuple[Row, ...] = ()
    releases: tuple[Release, ...] = ()
    published: tuple[Row, ...] = ()
    printed: Mapping[str, PublishedRow] = field(default_factory=dict)
    excluded: tuple[ExcludedRow, ...] = ()
    release: str = ""
    warnings: tuple[str, ...] = ()


def read_page_rows(baselines_dir: Path, *, results: Sequence[Path], has_baselines: bool, release: str = "") -> PageRows:
    """Read the rows of a page.

    Args:
        baselines_dir: Folder of baselines, and of releases.
        results: Results files, or folders that hold one; a later one's row of a case counts.
        has_baselines: Rows of stored baselines are there too, where no results file has the case.
        release: Name of a release whose frozen rows are taken instead of both; empty for none.

    Raises:
        NemoPerfError: If a file can't be trusted, there is no such release, or results are given beside one.
    """
    if release and results:
        raise PageError(
            f"--release={release} with --results: a release has its own rows; drop one, or freeze the results with "
            "nemoperf release NAME --results FILE"
        )
    warnings: list[str] = []
    releases = tuple(reversed(list_releases(baselines_dir)))
    files = [published_rows(system) for system in system_catalog()] + list(own_published(baselines_dir))
    printed: dict[str, PublishedRow] = {}
    excluded: dict[str, ExcludedRow] = {}
    for file in files:  # a project's own file may repeat shipped rows, and says more than they do
        for row in file.rows:
            printed[row.id] = row
            excluded.pop(row.id, None)
        for each in file.excluded:
            excluded[each.row.id] = each
            printed.pop(each.row.id, None)
    if release:
        frozen = [each for each in releases if each.name == release]
        if not frozen:
            names = ", ".join(each.name for each in releases) or "none"
            raise PageError(
                f"--release={release}: no such release in {baselines_dir / RELEASES_FOLDER} ({names}); freeze it with "
                f"nemoperf release {release}"
            )
        measured: Sequence[Row] = frozen[0].rows
    else:
        rows: dict[tuple[str, str], Row] = {}
        if has_baselines:
            rows |= {(row.system, row.case): row for row in read_baseline_rows(baselines_dir)}
        for path in results:
            rows |= {(row.system, row.case): row for row in _result_rows(path, warnings=warnings)}
        measured = list(rows.values())
    return PageRows(
        measured=tuple(measured),
        releases=releases,
        published=tuple([_published_row(row) for row in printed.values()]),
        printed=printed,
        excluded=tuple(excluded.values()),
        release=release,
        warnings=tuple(warnings),
    )


def read_baseline_rows(baselines_dir: Path) -> list[Row]:
    """Read the baselines of every system that the catalog knows; rows in the order of the catalog and the cases."""
    rows = []
    for system in system_catalog():
        for path in list_baselines(baselines_dir, system=system):
            rows.append(row_of_baseline(read_baseline(path), path=path.as_posix()))
    return rows


def version_key(name: str) -> tuple[tuple[int, str], ...]:
    """Return the order of a release's name: numbers as numbers; a branch is older than any release."""
    parts: list[tuple[int, str]] = []
    for digits in _DIGITS.findall(name):
        parts.append((int(digits[:_MAX_DIGITS]), ""))
    return (*parts, (-1, name))


def is_branch(name: str) -> bool:
    """Return whether a release of published rows is a branch, such as ``main``: a name without a number."""
    return _DIGITS.search(name) is None


def _result_rows(path: Path, *, warnings: list[str]) -> list[Row]:
    file = path / _RESULTS_FILE if path.is_dir() else path
    results = read_contract(SessionResults, file, name="results", error=PageError)
    if results.inject_pct:
        raise PageError(f"{file}: is of a self-test (--perf-inject): none of its figures is real; take another session")
    invalid = [case.verdict.case for case in results.cases if case.verdict.kind is VerdictKind.INVALID]
    if invalid:
        warnings.append(f"{file}: {count_text(len(invalid), 'case')} INVALID, left out: {', '.join(invalid)}")
    rows = rows_of_results(results, path=file.as_posix())
    for number, row in enumerate(rows):
        for problem in row_problems(row, place=f"row {number + 1} ({row.case})"):
            raise PageError(f"{file}: {problem}; measure again")
    return rows


def _published_row(published: PublishedRow) -> Row:
    """Return a published row with the convention that its page counts FLOPs under, if that is known."""
    row = row_of_published(published)
    if TFLOPS_PER_SEC_PER_GPU.name not in row.values:
        return row
    try:
        task = published_task(published.section, task=published.task)
        convention = published_convention(
            published.source, release=published.release, printed_model=published.model, task=task
        )
    except RecipeError:
        return row
    return replace(row, flops_convention=convention)
