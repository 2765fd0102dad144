"""State of a check: outcome of each stage, kept in a file so that another start goes on where this one ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.json_codec import read_data, to_json

STATE_FILE = "state.json"


class Outcome(StrEnum):
    """Outcome of a stage."""

    PASSED = "passed"
    FAILED = "FAILED"
    NOT_HERE = "not here"
    """It needs what this machine does not have."""
    NOT_JUDGED = "not judged"
    """It ran to its end, on a machine too busy to judge by."""
    TIMED_OUT = "timed out"
    INTERRUPTED = "interrupted"
    BROKEN = "BROKEN"
    """Its program ended without findings."""

    @property
    def is_final(self) -> bool:
        """Another start does not run the stage again by itself."""
        return self in {Outcome.PASSED, Outcome.FAILED, Outcome.BROKEN}

    @property
    def is_bad(self) -> bool:
        """The check fails for it."""
        return self in {Outcome.FAILED, Outcome.BROKEN}


@dataclass(kw_only=True)
class StageState:
    """Outcome of one stage.

    Attributes:
        outcome: Outcome of its last start.
        seconds: Wall time of its last start.
        limit_sec: Limit that it ran under.
        date: End of it, in UTC.
        detail: Reason of an outcome that is not passed; empty if the findings say it.
    """

    outcome: Outcome
    seconds: float
    limit_sec: float
    date: str
    detail: str = ""


@dataclass(kw_only=True)
class State:
    """Outcomes by stage.

    Attributes:
        system: System that the stages ran on, as found.
        stages: Outcomes by the names of stages.
    """

    system: str
    stages: dict[str, StageState] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the state, as a whole or not at all."""
        draft = folder / f"{STATE_FILE}.new"
        draft.write_text(to_json(self), encoding="utf-8")
        draft.replace(folder / STATE_FILE)


def read_state(folder: Path, *, system: str) -> State:
    """Return the state in a folder; a new one if there is none.

    Raises:
        RecordError: If it can't be read, or is another system's.
    """
    path = folder / STATE_FILE
    if path.exists():
        state = read_data(State, path)
        if state.system != system:
            raise RecordError(
                f"{path} is of system {state.system}, and this machine is {system}: figures of two systems would be "
                "mixed; give another --folder"
            )
        return state
    return State(system=system)
