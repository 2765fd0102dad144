"""Rows that a release freezes: of stored baselines or of sessions' results, with cautions on their provenance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import BaselineError, count_text
from pytest_nemoperf.pages.stored_rows import RESULTS_FILE, baseline_rows, read_session, with_source
from pytest_nemoperf.results.row import Row
from pytest_nemoperf.verdict.comparison import VerdictKind

_FEW_RUNS: Final = 3
_MAX_NAMED: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRows:
    """Rows to freeze.

    Attributes:
        rows: The rows.
        warnings: Sentences on cases that are left out or were not passed.
    """

    rows: tuple[Row, ...]
    warnings: tuple[str, ...] = ()

    def of_systems(self, names: Collection[str]) -> ReleaseRows:
        """Return those of some systems."""
        return replace(self, rows=tuple(row for row in self.rows if row.system in names))


def rows_of_baselines(folder: Path) -> ReleaseRows:
    """Return the measured baselines of all systems in a folder.

    Raises:
        BaselineError: If one of them can't be trusted.
    """
    rows = []
    for row in baseline_rows(folder):
        path = Path(folder.name) / Path(row.origin.source).relative_to(folder)  # the same on every machine
        rows.append(with_source(row, source=path.as_posix()))
    return ReleaseRows(rows=tuple(rows))


def rows_of_sessions(files: Sequence[Path]) -> ReleaseRows:
    """Return the valid cases of sessions, from their results files or the folders that hold them.

    Raises:
        BaselineError: If a file can't be trusted, is of a self-test, or holds a case that another one holds.
    """
    rows: list[Row] = []
    warnings: list[str] = []
    file_of: dict[tuple[str, str], Path] = {}
    for file in files:
        results, valid = read_session(file)
        path = file / RESULTS_FILE if file.is_dir() else file
        for kind in (VerdictKind.INVALID, VerdictKind.REGRESSED):
            cases = [case.verdict.case for case in results.cases if case.verdict.kind is kind]
            if cases:
                word = "left out" if kind is VerdictKind.INVALID else "frozen all the same"
                warnings.append(f"{path}: {count_text(len(cases), 'case')} {kind}, {word}: {_few(cases)}")
        shown = path.name if path.is_absolute() else path.as_posix()
        for row in valid:
            key = (row.system, row.case)
            if key in file_of:
                raise BaselineError(
                    f"{path}: case {row.case} of {row.system} is in {file_of[key]} too; a release holds it once, so "
                    "leave one of the files out"
                )
            file_of[key] = path
            rows.append(with_source(row, source=shown))
    return ReleaseRows(rows=tuple(rows), warnings=tuple(warnings))


def cautions(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a sentence for each reason to look twice before a release is made of the rows."""
    changed = [row.case for row in rows if row.origin.commit.endswith(("+changes", "+unknown"))]
    if changed:
        yield f"{count_text(len(changed), 'case')} measured on top of changes that are in no commit: {_few(changed)}"
    commits = Counter([row.origin.commit.partition("+")[0] for row in rows if row.origin.commit])
    if len(commits) > 1:
        named = [f"{commit} ({number})" for commit, number in commits.most_common()]
        yield f"measured at {count_text(len(commits), 'commit')}: {_few(named)}"
    for what, cases in (
        ("a commit", [row.case for row in rows if not row.origin.commit]),
        ("a date", [row.case for row in rows if not row.origin.date]),
        ("a device", [row.case for row in rows if not row.origin.device]),
        ("versions", [row.case for row in rows if not row.origin.versions]),
    ):
        if cases:
            yield f"{count_text(len(cases), 'case')} without {what}: {_few(cases)}"
    short = [row.case for row in rows if row.num_runs < _FEW_RUNS]
    if short:
        yield f"{count_text(len(short), 'case')} of fewer than {_FEW_RUNS} runs: {_few(short)}"


def _few(names: Sequence[str]) -> str:
    if len(names) <= _MAX_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_MAX_NAMED])} and {len(names) - _MAX_NAMED} more"
