"""Provenance of a measurement, stored with every baseline and every results file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from pytest_nemoperf.errors import RecordError, shown
from pytest_nemoperf.records.figures import Count, Size


def utc_day(text: str) -> date:
    """Return the day in UTC of a date in ISO 8601.

    Raises:
        RecordError: If it is no date, or lies beyond the years that have one in UTC.
    """
    try:
        return datetime.fromisoformat(text).astimezone(UTC).date()
    except (ValueError, OverflowError):
        raise RecordError(f"{shown(text)} is no date; write e.g. 2026-12-31T12:00:00Z") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSource:
    """Log that a run was read from.

    Attributes:
        path: File or folder, as it was given.
        log_format: Name of its format.
        date: As stated, else the time of its first clock, else of its last change, ISO 8601.
        first_step: Number of its first step in the log's own count.
        num_records: Records of steps, warm-up included.
        num_warmup: Records of warm-up among them.
        steps_per_record: Steps that a record is the mean of.
        has_health: A report on the machine's health meanwhile was given with it.
    """

    path: str
    log_format: str
    date: str
    first_step: Count
    num_records: Count
    num_warmup: Count
    steps_per_record: Size = 1
    has_health: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Date, code, machine and command of a measurement.

    Attributes:
        date: UTC, ISO 8601, to the second.
        git_commit: Commit of the measured code; None outside a repository, before its first commit, or if unknown.
        git_dirty: Tracked files differed from that commit; None if git gives no answer.
        versions: Version by distribution, of those that are installed; also ``python`` and ``platform``.
        device: Count and name of the GPUs, or the processor's name.
        driver: NVIDIA driver version; empty without one.
        command: The command line that started the session.
        settings: Settings of this host by its administrator, by name: clocks, power caps, governor, container.
        source: Format and names of the logs that the numbers were read from; empty for numbers of a session. What
            a log does not tell is left out above.
    """

    date: str
    git_commit: str | None
    git_dirty: bool | None
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    driver: str = ""
    command: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    source: str = ""

    def environment(self) -> dict[str, str]:
        """Return the facts that may explain a change of speed, by name: versions, settings, driver, commit, device."""
        named = {"device": self.device, "driver": self.driver, "commit": self._commit()}
        known = {name: value for name, value in named.items() if value}
        return {**self.versions, **self.settings, **known}

    def _commit(self) -> str:
        if not self.git_commit:
            return ""
        changes = {True: "+changes", False: "", None: "+unknown"}[self.git_dirty]
        return f"{self.git_commit[:12]}{changes}"
