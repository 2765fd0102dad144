"""Checks of the files beside the baselines of systems: releases, and published rows."""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path

from pytest_nemoperf.errors import BaselineError, RecipeError, shown
from pytest_nemoperf.lint.findings import Finding
from pytest_nemoperf.pages.releases import check_release_name
from pytest_nemoperf.published.row import PublishedRows
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.results.row import Release
from pytest_nemoperf.results.row_problems import printed_problems, published_rows_of, release_problems
from pytest_nemoperf.schema import read_contract


def lint_release(path: Path) -> list[Finding]:
    """Return the findings on the file of a release: its name, its day, its figures, the release before it."""
    try:
        release = read_contract(Release, path, error=BaselineError, corrupt_hint="restore it")
    except BaselineError as exc:
        return [_error(path, "file", str(exc).removeprefix(f"{path}: "))]
    findings = []
    if release.name != path.stem:
        findings.append(_error(path, "file", f"holds release {release.name!r}; file and release must be named alike"))
    try:
        check_release_name(release.name)
    except BaselineError as exc:
        findings.append(_error(path, "file", str(exc)))
    try:
        date.fromisoformat(release.date)
    except ValueError:
        findings.append(_error(path, "date", f"$.date: {release.date!r} is no day; write e.g. 2026-12-31"))
    for problem in release_problems(release):
        findings.append(_error(path, "arithmetic", f"{problem}; restore it (git checkout)"))
    for system in sorted({row.system for row in release.rows}):
        findings += _system_findings(path, system, place="$.rows")
    if release.previous and release.previous not in {other.stem for other in path.parent.glob("*.json")}:
        previous = shown(release.previous)
        message = f"$.previous: release {previous} is not there; restore its file, or --replace this release"
        findings.append(_error(path, "release", message))
    return findings


def lint_published(path: Path) -> list[Finding]:
    """Return the findings on a file of published rows: schema, ids, systems, figures that are no numbers."""
    try:
        published = read_contract(PublishedRows, path, error=BaselineError, corrupt_hint="restore it")
    except BaselineError as exc:
        return [_error(path, "file", str(exc).removeprefix(f"{path}: "))]
    findings = []
    rows = list(published_rows_of(published))
    for row_id, number in Counter([row.id for _, row in rows]).items():
        if number > 1:
            findings.append(_error(path, "file", f"row {row_id!r} is there {number} times; an id names one row"))
    for place, row in rows:
        if row.system != path.stem:
            message = f"{place}.system is {row.system!r}; the file holds the rows of {path.stem!r}"
            findings.append(_error(path, "system", message))
        for problem in printed_problems(row, place=place):
            findings.append(_error(path, "arithmetic", problem))
    findings += _system_findings(path, path.stem, place="its name")
    return findings


def _system_findings(path: Path, system: str, *, place: str) -> list[Finding]:
    try:
        find_system(system)
    except RecipeError as exc:
        return [_error(path, "system", f"{place}: {exc}")]
    return []


def _error(path: Path, rule: str, message: str) -> Finding:
    return Finding(path=str(path), level="error", rule=rule, message=message)
