"""The failing block of a report, taken apart."""

from __future__ import annotations

from pytest_nemoperf.report.failure import render_failure
from pytest_nemoperf.results import CaseReport


def lines_of(report: CaseReport, *, width: int = 100) -> list[str]:
    return render_failure(report, width=width, color=False).splitlines()


def section(lines: list[str], *, heading: str) -> list[str]:
    """Return the lines under a heading up to the next blank one."""
    start = next(number for number, line in enumerate(lines) if line.startswith(heading)) + 1
    rest = [*lines[start:], ""]
    return rest[: rest.index("")]
