"""Stored baselines: one JSON file per case, validated, written atomically, never overwritten if unreadable."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import platform
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from filelock import FileLock, Timeout

from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.jsontext import is_there, read_json, to_data, to_json
from pytest_nemoperf.measure import Measurement, Run, identity_problem
from pytest_nemoperf.metrics import JUDGED, STEP_TIME_SEC
from pytest_nemoperf.profiles import Profile
from pytest_nemoperf.provenance import Provenance
from pytest_nemoperf.schema import from_valid_data

BASELINE_SCHEMA_VERSION: Final = 1
_LOCK_TIMEOUT_SEC = 30.0
_POSITIVE = (*(metric.name for metric in JUDGED), STEP_TIME_SEC.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """Older runs of the same workload, kept beside the newest baseline to detect slow decay.

    Attributes:
        name: Release of the runs, or their date.
        runs: One entry per launch.
        provenance: Date, commit, device and command.
    """

    name: str
    runs: tuple[Run, ...]
    provenance: Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Accepted runs of one case on one system.

    Attributes:
        case: Case id; the file's name.
        system: System name; the folder's name.
        machine: Key of the machine: only the same key compares.
        workload: The workload as plain data: only the same compares.
        runs: One entry per launch; the noise between them is the noise of the case.
        provenance: Date, commit, versions, device and command.
        reason: Reason for recording it, or for accepting a regression.
        environment: Versions and settings inside the processes that ran the steps.
        flops_per_token: Model FLOPs per token; None if FLOPs are not known.
        flops_convention: Name of the FLOPs convention.
        anchor: Runs from which slow decay is measured; None to measure it from this baseline.
    """

    case: str
    system: str
    machine: Mapping[str, str | int]
    workload: Mapping[str, Any]
    runs: tuple[Run, ...]
    provenance: Provenance
    reason: str
    environment: Mapping[str, str] = field(default_factory=dict)
    flops_per_token: float | None = None
    flops_convention: str | None = None
    anchor: Anchor | None = None
    schema_version: Literal[1] = BASELINE_SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """Difference between a stored file and a measurement that keeps them from being compared.

    Attributes:
        subject: ``machine`` or ``workload``.
        text: Sentence with the key and both values.
    """

    subject: Literal["machine", "workload"]
    text: str


def find_mismatches(
    stored: Baseline | Profile, *, machine: Mapping[str, str | int], workload: Mapping[str, Any]
) -> list[Mismatch]:
    """Return every difference in machine and workload; empty if the stored file compares."""
    return [
        *_differences("machine", then=stored.machine, now=machine),
        *_differences("workload", then=stored.workload, now=workload),
    ]


def counts_flops_alike(one: Baseline | Measurement, *, other: Baseline) -> bool:
    """Return whether TFLOP/s compare: FLOPs per token too must be equal, since a convention's formula may be mended."""
    return (one.flops_convention, one.flops_per_token) == (other.flops_convention, other.flops_per_token)


def _differences(
    subject: Literal["machine", "workload"], *, then: Mapping[str, Any], now: Mapping[str, Any], parents: str = ""
) -> Iterator[Mismatch]:
    """Yield the differences of two mappings; parents are the keys above them, each with a colon."""
    for key in sorted({*then, *now}):
        before = then.get(key)
        after = now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from _differences(subject, then=before, now=after, parents=f"{parents}{key}: ")
        elif before != after:
            stored = repr(before) if key in then else "the default"  # stored workloads leave defaults out
            shown = repr(after) if key in now else "the default"
            text = f"other {subject}: {parents}{key} is {shown}, {stored} in the baseline"
            yield Mismatch(subject=subject, text=text)


def from_measurement(
    measurement: Measurement, *, machine: Mapping[str, str | int], provenance: Provenance, reason: str
) -> Baseline:
    """Return a sound measurement as a baseline.

    Raises:
        BaselineError: If the measurement is invalid, empty or has an injected delay.
    """
    if measurement.inject_pct:
        raise BaselineError(f"{measurement.case}: a run with an injected delay is never stored")
    if measurement.problems or not measurement.runs:
        problems = "; ".join(measurement.problems) or "no run was measured"
        raise BaselineError(f"{measurement.case}: only complete, valid runs are stored, but {problems}")
    return Baseline(
        case=measurement.case,
        system=measurement.system,
        machine=machine,
        workload=measurement.workload,
        # Names of hosts are of no use later, and don't belong into a committed file.
        runs=tuple(replace(run, hosts=()) for run in measurement.runs),
        provenance=provenance,
        reason=reason,
        environment=measurement.environment,
        flops_per_token=measurement.flops_per_token,
        flops_convention=measurement.flops_convention,
    )


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
    data = read_json(path, error=BaselineError, corrupt_hint="restore it (git checkout) or delete it")
    _check_version(data, path=path)
    baseline = from_valid_data(Baseline, data, name="baseline", subject=str(path), error=BaselineError)
    for problem in _impossible_figures(data, baseline=baseline):
        raise BaselineError(f"{path}: {problem}; restore it (git checkout) or record it again")
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
    for problem in _impossible_figures(to_data(baseline), baseline=baseline):
        raise BaselineError(f"{baseline.case}: {problem}; it is not stored")
    path = baseline_path(root, system=baseline.system, case=baseline.case)
    try:
        lock_path = _lock_path(root)
        with FileLock(lock_path, timeout=_LOCK_TIMEOUT_SEC, mode=0o666):
            old = read_baseline(path) if path.exists() else None
            # Only the lock's holder writes under this name: an existing file was left by a killed process.
            write_atomically(path, text=to_json(baseline), aside_name=_aside_name(lock_path))
    except Timeout:
        raise BaselineError(
            f"{path}: another session has been writing baselines for {_LOCK_TIMEOUT_SEC:.0f} s; "
            "try again when it is done"
        ) from None
    except OSError as exc:
        raise BaselineError(
            f"{path}: cannot be written: {exc.strerror or exc}; what was stored before is untouched"
        ) from exc
    return old


def write_atomically(path: Path, *, text: str, aside_name: str = "") -> None:
    """Write a file aside, then rename it into place; on any error the old file stays.

    A symbolic link stays; the file that it leads to is written, there or not.

    Args:
        path: The file.
        text: The new content.
        aside_name: Name of a file in the same folder that only this process writes; an existing one is overwritten.
            Empty for a random name; such a file stays behind if the process is killed.

    Raises:
        OSError: If the folder or the disk refuses it, or links lead in a circle.
    """
    path = Path(os.path.realpath(path))  # not resolve, which raises no OSError for a circle
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(aside_name or f".{path.stem[:40]}-{secrets.token_hex(4)}.tmp")
    try:
        aside.unlink(missing_ok=True)
        with aside.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        with suppress(OSError):
            aside.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Flush a renaming to the disk, so that it survives a power cut, on file systems that can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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


def _impossible_figures(data: Mapping[str, Any], *, baseline: Baseline) -> Iterator[str]:
    """Yield a sentence for each impossible figure; NaN and Infinity are valid in Python's JSON."""
    for place, value in _non_finite(data, place="$"):
        yield f"{place} is {value}; only finite figures can be compared"
    sides = [("$.runs", baseline.runs)]
    if baseline.anchor:
        sides.append(("$.anchor.runs", baseline.anchor.runs))
    for place, runs in sides:
        if not runs:
            yield f"{place} is empty; a baseline needs at least one run"
        for number, run in enumerate(runs):
            metrics = f"{place}[{number}].metrics"
            for name in _POSITIVE:
                if run.metrics.get(name, 1.0) <= 0:
                    yield f"{metrics}.{name} is {run.metrics[name]:g}; only positive figures can be compared"
            problem = identity_problem(run, flops_per_token=baseline.flops_per_token)
            if problem:
                yield f"{metrics}: {problem}"


def _non_finite(node: object, *, place: str) -> Iterator[tuple[str, float]]:
    """Yield the place of each number that is not finite, and the number."""
    if isinstance(node, float) and not math.isfinite(node):
        yield place, node
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _non_finite(value, place=f"{place}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _non_finite(value, place=f"{place}[{number}]")


def _aside_name(lock_path: Path) -> str:
    """Return the name of the file written aside, equal only for sessions that share the lock.

    Hosts that share a folder don't share it, nor do sessions with other temporary directories. Containers may have
    equal host names and paths, so device and inode of the directory count too.
    """
    place = lock_path.parent.stat()
    lock = f"{platform.node()} {lock_path} {place.st_dev} {place.st_ino}"
    return f".nemoperf-{hashlib.sha256(lock.encode()).hexdigest()[:8]}.tmp"


def _lock_path(root: Path) -> Path:
    """Return the lock of all baselines of a folder, outside of it, so that no untracked file appears in it."""
    digest = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"nemoperf-baseline-{digest}.lock"
