"""Section on the logs that runs were read from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pytest_nemoperf.errors import count_text
from pytest_nemoperf.records.provenance import LogSource
from pytest_nemoperf.report.console import indented, section, unfolded
from pytest_nemoperf.results.cases import CaseResult

if TYPE_CHECKING:
    from rich.console import RenderableType


def log_parts(result: CaseResult) -> Iterator[RenderableType]:
    """Yield the logs of a case with their steps, and the missing health; nothing for runs of a session."""
    if not result.logs:
        return
    yield section(f"read from logs, not measured by a session ({result.logs[0].log_format})")
    for log in result.logs:
        yield unfolded(f"{log.path}: {_content(log)}")
    unwatched = [str(number) for number, log in enumerate(result.logs, start=1) if not log.has_health]
    if len(unwatched) == len(result.logs):
        yield indented("health: not known, for a log does not tell clocks, heat or other load")
    elif unwatched:
        yield indented(f"health: not known of log {', '.join(unwatched)}")


def _content(log: LogSource) -> str:
    num_measured = log.num_records - log.num_warmup
    measured = count_text(num_measured, "step")
    if log.steps_per_record > 1:
        measured = f"{count_text(num_measured, 'record')} of {count_text(log.steps_per_record, 'step')} each"
    first = f" from step {log.first_step:,}" if log.first_step > 1 else ""
    return f"{measured} after {log.num_warmup:,} of warm-up{first}, {log.date.partition('T')[0]}"
