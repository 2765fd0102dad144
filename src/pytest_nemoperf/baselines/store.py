"""Stores of baselines: committed with the project, and local to this machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from pytest_nemoperf.baselines.baseline import Baseline, find_mismatches
from pytest_nemoperf.baselines.files import baseline_path, find_baseline, list_baselines, read_baseline, write_baseline
from pytest_nemoperf.baselines.profile_store import delete_profile, profile_path
from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.recipes.other_framework import without_framework
from pytest_nemoperf.records.machine_key import key_of_case

DEFAULT_FOLDER: Final = "baselines"
"""Default folder of the committed baselines, in a project's root directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBaseline:
    """A stored baseline and its file; None and an empty path if nothing is stored.

    Attributes:
        baseline: The baseline.
        path: Its file.
        is_local: It is in this machine's local store, not committed.
        is_comparable: It is of the machine and the workload that it was looked up for.
        why_none: Reason why there is none, where it is not looked for in a folder; empty otherwise.
    """

    baseline: Baseline | None
    path: str
    is_local: bool = False
    is_comparable: bool = False
    why_none: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineStore:
    """The committed baselines, and a local store for machines and workloads they don't cover.

    A file is read once: a session judges by the state before it, also if a test runs again after its runs were stored.

    Attributes:
        committed_dir: ``baselines/`` of the project.
        local_dir: Store that is not committed; one folder per machine, on GPUs one per kind of GPU.
        system: System name.
        machine: Key of this machine; whole, or of a case.
        is_updating: Committed baselines are written; a link to a missing file creates it.
        is_local_used_if_missing: A local baseline is used if no committed one exists.
        is_local_used_if_other: A local baseline is used if the committed one does not compare.
    """

    committed_dir: Path
    local_dir: Path
    system: str
    machine: Mapping[str, str | int]
    is_updating: bool = False
    is_local_used_if_missing: bool = True
    is_local_used_if_other: bool = True
    _read: dict[Path, Baseline | None] = field(default_factory=dict, repr=False, compare=False)

    def unread(self) -> BaselineStore:
        """Return this store with no file read yet, for a look that does not settle the baseline of the session."""
        return replace(self, _read={})

    def find(
        self, case: str, *, workload: Mapping[str, Any], machine: Mapping[str, str | int] | None = None
    ) -> StoredBaseline:
        """Return the committed baseline if it compares, else the local one if that does, else the committed one.

        Args:
            case: Case id.
            workload: Workload to compare with.
            machine: Key of the machine for that case; None for the store's.

        Raises:
            BaselineError: If an existing file can't be trusted.
        """
        if machine is None:
            machine = self.machine
        committed = self.find_committed(case)
        found = StoredBaseline(baseline=None, path="")
        is_local_used = self.is_local_used_if_missing
        if committed is not None:
            is_comparable = not find_mismatches(committed, machine=machine, workload=workload)
            found = StoredBaseline(baseline=committed, path=str(self.committed_path(case)), is_comparable=is_comparable)
            is_local_used = self.is_local_used_if_other
        if not found.is_comparable and is_local_used:
            for root in self._local_roots:
                local = self._find(root, case)
                if local is not None and not find_mismatches(local, machine=machine, workload=workload):
                    path = str(self._path(root, case))
                    return StoredBaseline(baseline=local, path=path, is_local=True, is_comparable=True)
        return found

    def find_committed(self, case: str) -> Baseline | None:
        """Return the committed baseline of a case, also if it does not compare.

        Raises:
            BaselineError: If the file can't be trusted, or is a link to a missing one.
        """
        path = self._path(self.committed_dir, case)
        if path.is_symlink() and not path.exists() and not self.is_updating:
            raise BaselineError(
                f"{path}: is a link to {path.readlink()}, which is not there; get that file, delete the link, or "
                "record the case through it with --update-baselines"
            )
        return self._find(self.committed_dir, case)

    def record_locally(self, baseline: Baseline) -> Path:
        """Store a baseline locally, for the next session on this machine to compare with.

        Raises:
            BaselineError: If it can't be written.
        """
        write_baseline(self._local_roots[0], baseline=baseline)
        return self.local_path(baseline.case)

    def update(self, baseline: Baseline) -> None:
        """Store a committed baseline.

        Raises:
            BaselineError: If the file is another test's, can't be trusted, or can't be written.
        """
        old = find_baseline(self.committed_dir, system=self.system, case=baseline.case)
        if old is not None and _test_of(old) != _test_of(baseline):
            raise BaselineError(
                f"{self.committed_path(baseline.case)}: is the baseline of {_test_of(old)}, and {_test_of(baseline)} "
                "has the same case; delete the file if that test has another case now, or give one of the two another "
                "id"
            )
        write_baseline(self.committed_dir, baseline=baseline)

    def committed_path(self, case: str) -> Path:
        """Return the file of a case's committed baseline."""
        return self._path(self.committed_dir, case)

    def local_path(self, case: str) -> Path:
        """Return the file of a case's baseline in this machine's own store."""
        return self._path(self._local_roots[0], case)

    def prune(self, asked: Collection[str]) -> Iterator[Path]:
        """Delete the system's committed baselines of cases that are not asked for, with their profiles.

        Files that can't be read as a baseline are kept.

        Yields:
            Path of each deleted file.

        Raises:
            BaselineError: If one can't be deleted.
        """
        for path in self.unasked(asked):
            own = [each for each in (path, profile_path(path)) if each.exists()]
            try:
                delete_profile(path)
                path.unlink()
            except OSError as exc:
                raise BaselineError(f"{path}: cannot be deleted: {exc.strerror or exc}") from exc
            yield from own

    def unasked(self, asked: Collection[str]) -> dict[Path, Baseline]:
        """Return the system's committed baselines of cases that are not asked for; broken ones are left out.

        A recipe's baseline in another framework is asked for too: ``--perf-framework`` takes it.
        """
        found = {}
        recipes = set(map(without_framework, asked))
        for path in list_baselines(self.committed_dir, system=self.system):
            if without_framework(path.stem) not in recipes:
                with suppress(BaselineError):
                    found[path] = read_baseline(path)
        return found

    def of_this_machine(self, *, beginnings: tuple[str, ...]) -> dict[Path, Baseline]:
        """Return this machine's stored baselines of cases with these beginnings: the project's, then its local ones.

        Broken files are left out: the case that they belong to reports them. What was stored since the session began
        is among them.
        """
        found = {}
        for root in (self.committed_dir, *self._local_roots):
            for path in list_baselines(root, system=self.system):
                if not path.name.startswith(beginnings):
                    continue
                with suppress(BaselineError):
                    baseline = read_baseline(path)
                    if not find_mismatches(baseline, machine=self.machine, workload=baseline.workload):
                        found[path] = baseline
        return found

    def is_committed(self, case: str) -> bool:
        """Return whether a case has a committed baseline, of any machine and workload."""
        return self._path(self.committed_dir, case).exists()

    def num_committed(self) -> int:
        """Count the committed baselines of the system."""
        return len(list_baselines(self.committed_dir, system=self.system))

    def num_local(self) -> int:
        """Count the baselines in this machine's local store."""
        cases: set[str] = set()
        for root in self._local_roots:
            cases.update(path.stem for path in list_baselines(root, system=self.system))
        return len(cases)

    @property
    def _local_roots(self) -> tuple[Path, ...]:
        """Folders of this machine: the one that is written, and that of older versions, named by the whole machine.

        The first is of the part that cases of any size have in common; a file's own key tells whether it compares.
        """
        keys = (key_of_case(self.machine, num_gpus=1), dict(self.machine))
        return tuple(dict.fromkeys(self.local_dir / _digest(key) for key in keys))

    def _find(self, root: Path, case: str) -> Baseline | None:
        path = self._path(root, case)
        if path not in self._read:
            self._read[path] = find_baseline(root, system=self.system, case=case)
        return self._read[path]

    def _path(self, root: Path, case: str) -> Path:
        return baseline_path(root, system=self.system, case=case)


def other_folders(folder: Path, *, system: str, near: Iterable[Path]) -> list[Path]:
    """Return other folders that hold baselines of a system, for a hint.

    The configured folder may be one level too high or too low, or belong to another root directory.

    Args:
        folder: The configured folder; a system's baselines are a level below.
        system: System name.
        near: Directories that may have a folder of the default name.
    """
    candidates = [place / DEFAULT_FOLDER for place in (folder, *near)]
    if folder.name == system:
        candidates.insert(0, folder.parent)
    seen = {folder.resolve()}
    others = []
    for candidate in candidates:
        if candidate.resolve() not in seen:
            seen.add(candidate.resolve())
            if list_baselines(candidate, system=system):
                others.append(candidate)
    return others


def _digest(machine: Mapping[str, str | int]) -> str:
    return hashlib.sha256(json.dumps(dict(machine), sort_keys=True).encode()).hexdigest()[:12]


def _test_of(baseline: Baseline) -> str:
    """Return the node id of a benchmark test's baseline; empty for other cases."""
    if baseline.workload.get("workload") != "benchmark":
        return ""
    return str(baseline.workload.get("test", ""))
