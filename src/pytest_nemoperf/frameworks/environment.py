"""Environment of a command, ``environment.json`` of its run: watched variables, versions, container."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pytest_nemoperf.frameworks.interpreter import find_interpreter, versions_in
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.json_codec import from_json, to_json
from pytest_nemoperf.records.fingerprint import watched_variables

_ENVIRONMENT_FILE: Final = "environment.json"


def write_environment(command: RankCommand, *, run_dir: Path) -> None:
    """Store what may change the speed of a command: variables, and the versions in its interpreter.

    Raises:
        LaunchError: If the interpreter does not answer.
    """
    environment = watched_variables({**os.environ, **command.env})
    environment |= versions_in(find_interpreter(command), env=command.env)
    (run_dir / _ENVIRONMENT_FILE).write_text(to_json(environment), encoding="utf-8")


def read_environment(run_dir: Path) -> dict[str, str]:
    """Return the environment of the command of a run; empty if it was not stored.

    Raises:
        RecordError: If the file can't be read.
    """
    path = run_dir / _ENVIRONMENT_FILE
    if not path.exists():
        return {}
    return from_json(dict[str, str], path.read_bytes(), subject=str(path))
