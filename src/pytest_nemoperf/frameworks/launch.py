"""Note of a launch, made before it: time, directory, versions, variables, and the log files that were there."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.frameworks.interpreter import find_interpreter, versions_in
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.json_codec import read_data, to_json
from pytest_nemoperf.logs.reading import find_log_files
from pytest_nemoperf.records.fingerprint import watched_variables

LAUNCH_FILE: Final = "launch.json"
_ENVIRONMENT_FILE: Final = "environment.json"
_ENDING_BYTES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class OldFile:
    """Log file that was there before the launch.

    Attributes:
        size: Bytes.
        changed_ns: Time of its last change by the clock of its file system, nanoseconds.
        ending: Hash of the last of them: a file that still has it there was continued, not written anew.
    """

    size: int
    changed_ns: int
    ending: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Beginning of a launch, ``launch.json``.

    Attributes:
        time_sec: Seconds since the epoch.
        directory: Working directory of the command.
        log_file: Pattern of the log's files; empty for a command that writes step records.
        old_files: Files of that pattern that were there before, by path.
    """

    time_sec: float
    directory: str
    log_file: str = ""
    old_files: Mapping[str, OldFile] = field(default_factory=dict)

    def has_changed(self, path: Path) -> bool:
        """Return whether a file was written since: one that was not is of an earlier run."""
        old = self.old_files.get(str(path))
        now = path.stat()
        return old is None or (now.st_size, now.st_mtime_ns) != (old.size, old.changed_ns)

    def num_old_bytes(self, path: Path) -> int:
        """Return the bytes at the beginning of a file that an earlier run wrote."""
        old = self.old_files.get(str(path))
        if old is None or path.stat().st_size < old.size or _ending(path, size=old.size) != old.ending:
            return 0
        return old.size


def note_launch(command: RankCommand, *, run_dir: Path, python: str = "", log_file: str = "") -> None:
    """Store time, directory and log files before a launch, and versions and variables that may change its speed.

    Args:
        command: Command that is launched.
        run_dir: Directory of the run.
        python: Interpreter that the command was given; empty for the one that can be told from it.
        log_file: Pattern of the files that will be read; empty for none.

    Raises:
        LaunchError: If the command's interpreter does not answer.
    """
    environment = watched_variables({**os.environ, **command.env})
    environment |= versions_in(python or find_interpreter(command), env=command.env)
    (run_dir / _ENVIRONMENT_FILE).write_text(to_json(environment), encoding="utf-8")
    _write(run_dir, directory=Path.cwd(), log_file=log_file)


def move_launch(run_dir: Path, *, directory: Path) -> None:
    """Store another working directory for a launch that is noted in a run directory."""
    launch = noted_launch(run_dir)
    if launch is not None and launch.directory != str(directory):
        _write(run_dir, directory=directory, log_file=launch.log_file)


def noted_launch(run_dir: Path) -> Launch | None:
    """Return the note of a run's launch, or None."""
    path = run_dir / LAUNCH_FILE
    if not path.exists():
        return None
    return read_data(Launch, path)


def noted_environment(run_dir: Path) -> dict[str, str]:
    """Return versions and variables stored at the launch; empty if there are none."""
    path = run_dir / _ENVIRONMENT_FILE
    if not path.exists():
        return {}
    return read_data(dict[str, str], path)


def _write(run_dir: Path, *, directory: Path, log_file: str) -> None:
    old_files = {}
    if log_file:
        for path in _present(log_file, run_dir=run_dir, directory=directory):
            now = path.stat()
            ending = _ending(path, size=now.st_size)
            old_files[str(path)] = OldFile(size=now.st_size, changed_ns=now.st_mtime_ns, ending=ending)
    launch = Launch(time_sec=time.time(), directory=str(directory), log_file=log_file, old_files=old_files)
    (run_dir / LAUNCH_FILE).write_text(to_json(launch), encoding="utf-8")


def _present(log_file: str, *, run_dir: Path, directory: Path) -> list[Path]:
    try:
        return find_log_files(log_file, run_dir=run_dir, cwd=directory)
    except RecordError:  # none yet, as it should be
        return []


def _ending(path: Path, *, size: int) -> str:
    """Return a hash of the bytes before a place in a file; empty if they can't be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, size - _ENDING_BYTES))
            return hashlib.sha256(file.read(min(size, _ENDING_BYTES))).hexdigest()
    except OSError:
        return ""
