"""Provenance of a measurement, stored with every baseline and every results file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
    """

    date: str
    git_commit: str | None
    git_dirty: bool | None
    versions: Mapping[str, str] = field(default_factory=dict)
    device: str = ""
    driver: str = ""
    command: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)

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
