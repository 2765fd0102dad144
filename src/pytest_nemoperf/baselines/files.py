"""Files of baselines: one JSON file per case, validated, written atomically, never overwritten if unreadable."""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from pytest_nemoperf.baselines.atomic import write_atomically
from pytest_nemoperf.baselines.baseline import BASELINE_SCHEMA_VERSION, Baseline, impossible_figures
from pytest_nemoperf.errors import BaselineError, RecordError
from pytest_nemoperf.json_codec import is_there, read_json, to_data, to_json
from pytest_nemoperf.json_faults import non_finite
from pytest_nemoperf.measure.stored_workload import check_workload
from pytest_nemoperf.schema import from_valid_data

_LOCK_TIMEOUT_SEC: Final = 30.0
_REMEDY: Final = "restore it (git checkout), or delete it and record the case again"


def baseline_path(root: Path, *, system: str, case: str) -> Path:
    """Return the file of a case's baseline: ``<root>/<system>/<case>.json``."""
    return root / system / f"{case}.json"


def read_baseline(path: Path, *, is_in_place: bool = True) -> Baseline:
    """Read and check one stored baseline.

    Args:
        path: The file.
        is_in_place: Folder and file must be named by system and case; False for a copy.

    Raises:
        BaselineError: If it can't be read, is not JSON, has another schema version, breaks the schema, holds a figure
            that can't have been measured, or breaks the identity TFLOP/s = FLOPs per token x tokens/s. The message
            has the path and the JSON path.
    """
    hint = "restore it (git checkout) or delete it"
    data = read_json(path, error=BaselineError, corrupt_hint=hint, is_finite=True)
    _check_version(data, path=path)
    baseline = from_valid_data(Baseline, data, subject=str(path), error=BaselineError)
    try:
        check_workload(baseline.workload, place="$.workload")
    except RecordError as exc:
        raise BaselineError(f"{path}: {exc}; {_REMEDY}") from None
    for problem in impossible_figures(baseline):
        raise BaselineError(f"{path}: {problem}; {_REMEDY}")
    if baseline.published is not None:
        raise BaselineError(
            f"{path}: holds a published figure, and the runs of a baseline are measured; --perf-against=published "
            "judges by published rows"
        )
    if is_in_place and baseline.case != path.stem and baseline.case.lower() == path.stem.lower():
        raise BaselineError(
            f"{path}: holds case {baseline.case!r}, which a file system that does not tell capitals apart keeps in the "
            f"same file as {path.stem!r}; give one of the two tests another id"
        )
    if is_in_place and (baseline.case, baseline.system) != (path.stem, path.parent.name):
        raise BaselineError(
            f"{path}: holds case {baseline.case!r} of system {baseline.system!r}; "
            "folder and file name must say the same: move it back"
        )
    return baseline


def find_baseline(root: Path, *, system: str, case: str) -> Baseline | None:
    """Return the stored baseline of a case, or None if there is no file; an unreadable one raises."""
    path = baseline_path(root, system=system, case=case)
    return read_baseline(path) if is_there(path, error=BaselineError) else None


def write_baseline(root: Path, *, baseline: Baseline) -> Baseline | None:
    """Replace a stored baseline, and return the old one, if any.

    The file is written aside and renamed, so that no reader, full disk or interrupt leaves half of it; a lock keeps
    two sessions from replacing the same file at once.

    Raises:
        BaselineError: If the old file is unreadable (it is kept), or the new one can't be written or read back.
    """
    for place, value in non_finite(to_data(baseline)):
        raise BaselineError(
            f"{baseline.case}: {place} is {value}; only finite figures can be compared; it is not stored"
        )
    for problem in impossible_figures(baseline):
        raise BaselineError(f"{baseline.case}: {problem}; it is not stored")
    path = baseline_path(root, system=baseline.system, case=baseline.case)
    try:
        with locked_folder(root, path=path) as aside_name:
            old = read_baseline(path) if path.exists() else None
            write_atomically(path, text=to_json(baseline), aside_name=aside_name)
    except OSError as exc:
        raise BaselineError(
            f"{path}: cannot be written: {exc.strerror or exc}; what was stored before is untouched"
        ) from exc
    return old


@contextmanager
def locked_folder(root: Path, *, path: Path) -> Iterator[str]:
    """Hold the lock of a folder of baselines; yield the name of the file to write aside.

    Only the lock's holder writes under this name: an existing file was left by a killed process.

    Args:
        root: The folder.
        path: File that is to be written, for the message.

    Raises:
        BaselineError: If others hold the lock for too long.
        OSError: If the lock can't be made.
    """
    lock_path = _lock_path(root)
    try:
        lock = FileLock(lock_path, timeout=_LOCK_TIMEOUT_SEC, mode=0o666)
        lock.acquire()
    except Timeout:
        raise BaselineError(
            f"{path}: another session has been writing baselines for {_LOCK_TIMEOUT_SEC:.0f} s; "
            "try again when it is done"
        ) from None
    try:
        yield _aside_name(lock_path)
    finally:
        lock.release()


def list_baselines(root: Path, *, system: str) -> list[Path]:
    """Return the baseline files of a system, by name."""
    return sorted((root / system).glob("*.json"))


def _check_version(data: object, *, path: Path) -> None:
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version != BASELINE_SCHEMA_VERSION:
        age = "older"
        remedy = "delete it and record it again with --update-baselines"
        if version > BASELINE_SCHEMA_VERSION:
            age = "newer"
            remedy = "upgrade pytest-nemoperf"
        raise BaselineError(
            f"{path}: $.schema_version is {version}, {age} than the {BASELINE_SCHEMA_VERSION} "
            f"this version reads; {remedy}"
        )


def _aside_name(lock_path: Path) -> str:
    """Return the name of the file written aside, equal only for sessions that share the lock.

    Hosts that share a folder don't share it, nor do sessions with other temporary directories. Containers may have
    equal host names and paths, so device and inode of the directory count too.
    """
    place = lock_path.parent.stat()
    lock = f"{platform.node()} {lock_path} {place.st_dev} {place.st_ino}"
    return f".nemoperf-{hashlib.sha256(os.fsencode(lock)).hexdigest()[:8]}.tmp"


def _lock_path(root: Path) -> Path:
    """Return the lock of all baselines of a folder, outside of it, so that no untracked file appears in it."""
    digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"nemoperf-baseline-{digest}.lock"
