"""Rows that a page is filled with: stored baselines, results of sessions, releases, published rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import PageError, count_text
from pytest_nemoperf.pages.own_published import own_published
from pytest_nemoperf.pages.releases import RELEASES_FOLDER, list_releases
from pytest_nemoperf.pages.stored_rows import baseline_rows, read_session
from pytest_nemoperf.published.files import published_rows
from pytest_nemoperf.published.row import ExcludedRow, PublishedRow
from pytest_nemoperf.recipes.systems import system_catalog
from pytest_nemoperf.results.row import Release, Row
from pytest_nemoperf.results.rows import row_of_published
from pytest_nemoperf.verdict.comparison import VerdictKind

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
            rows |= {(row.system, row.case): row for row in baseline_rows(baselines_dir)}
        for path in results:
            session, valid = read_session(path)
            rows |= {(row.system, row.case): row for row in valid}
            invalid = [case.verdict.case for case in session.cases if case.verdict.kind is VerdictKind.INVALID]
            if invalid:
                warnings.append(f"{path}: {count_text(len(invalid), 'case')} INVALID, left out: {', '.join(invalid)}")
        measured = list(rows.values())
    return PageRows(
        measured=tuple(measured),
        releases=releases,
        published=tuple([row_of_published(row) for row in printed.values()]),
        printed=printed,
        excluded=tuple(excluded.values()),
        release=release,
        warnings=tuple(warnings),
    )


def version_key(name: str) -> tuple[tuple[int, str], ...]:
    """Return the order of a release's name: numbers as numbers; a branch is older than any release."""
    parts: list[tuple[int, str]] = []
    for digits in _DIGITS.findall(name):
        parts.append((int(digits[:_MAX_DIGITS]), ""))
    return (*parts, (-1, name))


def is_branch(name: str) -> bool:
    """Return whether a release of published rows is a branch, such as ``main``: a name without a number."""
    return _DIGITS.search(name) is None
