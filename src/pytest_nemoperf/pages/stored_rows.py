"""Rows that a project stores: baselines of its systems, and results of its sessions; every file is checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.baselines.files import list_baselines, read_baseline
from pytest_nemoperf.errors import BaselineError, RecordError
from pytest_nemoperf.measure.stored_workload import check_workload
from pytest_nemoperf.pages.releases import stored_systems
from pytest_nemoperf.results.cases import SessionResults
from pytest_nemoperf.results.row import Row
from pytest_nemoperf.results.row_problems import row_problems
from pytest_nemoperf.results.rows import row_of_baseline, rows_of_results
from pytest_nemoperf.schema import read_contract

RESULTS_FILE: Final = "results.json"
"""Results of a session in its folder."""


def baseline_rows(baselines_dir: Path, *, system: str = "") -> Iterator[Row]:
    """Yield the baselines of a system, or of all that have some, by system and case.

    Raises:
        BaselineError: If a file can't be trusted.
    """
    for name in [system] if system else stored_systems(baselines_dir):
        for path in list_baselines(baselines_dir, system=name):
            yield row_of_baseline(read_baseline(path), path=path.as_posix())


def read_session(path: Path) -> tuple[SessionResults, list[Row]]:
    """Return the results of a session and its valid cases as rows; path is the file or its folder.

    Raises:
        BaselineError: If the file can't be trusted, or is of a self-test.
    """
    file = path / RESULTS_FILE if path.is_dir() else path
    results = read_contract(SessionResults, file, error=BaselineError)
    if results.inject_pct:
        raise BaselineError(
            f"{file}: is of a self-test (--perf-inject): none of its figures is real; take another session"
        )
    for number, case in enumerate(results.cases):
        try:
            check_workload(case.measurement.workload, place=f"$.cases[{number}].measurement.workload")
        except RecordError as exc:
            raise BaselineError(f"{file}: {exc}; measure again") from None
    rows = rows_of_results(results, path=file.as_posix())
    for number, row in enumerate(rows):
        for problem in row_problems(row, place=f"row {number + 1} ({row.case})"):
            raise BaselineError(f"{file}: {problem}; measure again")
    return results, rows


def with_source(row: Row, *, source: str) -> Row:
    """Return a row that names another file as its source."""
    return replace(row, origin=replace(row.origin, source=source))
