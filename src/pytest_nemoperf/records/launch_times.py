"""Times of a launch beside its steps: start-up, and the save and load of a checkpoint. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pytest_nemoperf.records.figures import Amount, Count

START_FILE: Final = "start.json"
START_SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimes:
    """Start of a run, ``start.json`` of its directory: the pytest process writes it after the ranks.

    Attributes:
        first_step_sec: Seconds from the launcher's start of the processes until the first step had ended; None if no
            step was seen to end before the run did.
        is_seen_by_log: The end of the step is the time at which its line was found in a file, up to a poll of the
            launcher late, and not a time that a rank has noted.
    """

    first_step_sec: Amount | None = None
    is_seen_by_log: bool = False
    schema_version: Literal[1] = START_SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointTimes:
    """Save and load of one checkpoint of weights and optimizer states; each time is the slowest rank's.

    Attributes:
        num_bytes: Bytes of its files.
        save_sec: Save, until every rank's files are on the disk; None if not asked for.
        async_wait_sec: Time for which training waits in a save that goes on in the background; None if not asked for.
        async_total_sec: The whole of that save.
        load_sec: Load into the ranks' weights and optimizer states; None if not asked for.
    """

    num_bytes: Count
    save_sec: Amount | None = None
    async_wait_sec: Amount | None = None
    async_total_sec: Amount | None = None
    load_sec: Amount | None = None
