"""Section of the summary with the figures of launches beside their steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pytest_nemoperf.records.metrics import ENERGY_METRICS
from pytest_nemoperf.report.console import QUIET, indented, section, styled
from pytest_nemoperf.report.launch_figures import TITLE, launch_figures, unknown_figures
from pytest_nemoperf.results.cases import CaseResult

if TYPE_CHECKING:
    from rich.console import RenderableType


def launch_parts(cases: Sequence[CaseResult], *, names: Mapping[str, str]) -> Iterator[RenderableType]:
    """Yield the figures of each case that has some, then the reason of each that is not known, once for all cases.

    Energy is not asked for: without any other figure there is no section for the reason that it is not known.

    Args:
        cases: Cases of the session.
        names: Short names by case id.
    """
    lines: list[str] = []
    reasons: dict[str, None] = {}
    is_asked = False
    for case in cases:
        runs = case.measurement.runs
        figures = launch_figures(runs)
        if figures:
            lines.append(f"{names[case.verdict.case]}: {', '.join(figures)}")
        reasons |= dict.fromkeys(unknown_figures(runs))
        is_asked |= any(run.unknown.keys() - {metric.name for metric in ENERGY_METRICS} for run in runs)
    if lines or is_asked:
        yield section(TITLE)
        yield from map(indented, lines)
        yield from [indented(styled((reason, QUIET))) for reason in reasons]
