"""Where a case's baseline comes from and goes to: committed with the project, or local to this machine."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_nemoperf.baseline import (
    Baseline,
    baseline_path,
    find_baseline,
    list_baselines,
    read_baseline,
    write_baseline,
)
from pytest_nemoperf.errors import BaselineError
from pytest_nemoperf.profilestore import forget_profile, profile_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A baseline and the file it is in; (None, "") where nothing is stored.

    Attributes:
        baseline: What is stored.
        path: Where.
        is_local: It is of this machine's own store, not among the committed ones.
    """

    baseline: Baseline | None
    path: str
    is_local: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineStore:
    """The committed baselines, and a local store for machines and workloads they don't cover.

    A file is read once: a session judges by what was stored before it, also where a test runs again after it has
    written its own runs.

    Attributes:
        committed_dir: ``baselines/`` of the project.
        local_dir: Store that is not committed; one folder a machine.
        system: System name.
        machine: Key of this machine.
    """

    committed_dir: Path
    local_dir: Path
    system: str
    machine: Mapping[str, str | int]
    _read: dict[Path, Baseline | None] = field(default_factory=dict, repr=False, compare=False)

    def find(self, case: str, *, workload: Mapping[str, Any]) -> Found:
        """Return the committed baseline if it compares, else the local one if that does, else the committed one.

        Raises:
            BaselineError: If a file that is there can't be trusted.
        """
        committed = self.find_committed(case)
        if committed is None or not self.compares(committed, workload=workload):
            local = self._find(self._local_root, case)
            if local is not None and self.compares(local, workload=workload):
                return Found(baseline=local, path=str(self.local_path(case)), is_local=True)
        return Found(baseline=committed, path=str(self.committed_path(case)) if committed else "")

    def find_committed(self, case: str) -> Baseline | None:
        """Return the committed baseline of a case, whether it compares or not.

        Raises:
            BaselineError: If the file can't be trusted.
        """
        return self._find(self.committed_dir, case)

    def compares(self, baseline: Baseline, *, workload: Mapping[str, Any]) -> bool:
        """Tell whether a baseline is of this machine and that workload."""
        return baseline.machine == self.machine and baseline.workload == workload

    def record_locally(self, baseline: Baseline) -> Path:
        """Remember what this machine did, so that its next session has something to compare with.

        Raises:
            BaselineError: If it can't be written.
        """
        write_baseline(self._local_root, baseline=baseline)
        return self.local_path(baseline.case)

    def update(self, baseline: Baseline) -> None:
        """Store a committed baseline.

        Raises:
            BaselineError: If it can't be written.
        """
        write_baseline(self.committed_dir, baseline=baseline)

    def committed_path(self, case: str) -> Path:
        """Return the file of a case's committed baseline."""
        return self._path(self.committed_dir, case)

    def local_path(self, case: str) -> Path:
        """Return the file of a case's baseline in this machine's own store."""
        return self._path(self._local_root, case)

    def prune(self, asked: Container[str]) -> Iterator[Path]:
        """Delete the system's committed baselines of cases that are not asked for, with their profiles.

        What can't be read as a baseline is left: it may be something else.

        Yields:
            Path of each deleted file.

        Raises:
            BaselineError: If the folder does not let one go.
        """
        for path in list_baselines(self.committed_dir, system=self.system):
            if path.stem in asked or not _is_baseline(path):
                continue
            own = [each for each in (path, profile_path(path)) if each.exists()]
            try:
                forget_profile(path)
                path.unlink()
            except OSError as exc:
                raise BaselineError(f"{path}: cannot be deleted: {exc.strerror or exc}") from exc
            yield from own

    def num_committed(self) -> int:
        """Count the committed baselines of the system."""
        return len(list_baselines(self.committed_dir, system=self.system))

    def num_local(self) -> int:
        """Count the baselines this machine keeps for itself."""
        return len(list_baselines(self._local_root, system=self.system))

    @property
    def _local_root(self) -> Path:
        digest = hashlib.sha256(json.dumps(dict(self.machine), sort_keys=True).encode()).hexdigest()[:12]
        return self.local_dir / digest

    def _find(self, root: Path, case: str) -> Baseline | None:
        path = self._path(root, case)
        if path not in self._read:
            self._read[path] = find_baseline(root, system=self.system, case=case)
        return self._read[path]

    def _path(self, root: Path, case: str) -> Path:
        return baseline_path(root, system=self.system, case=case)


def _is_baseline(path: Path) -> bool:
    try:
        read_baseline(path)
    except BaselineError:
        return False
    return True


def forget_old_runs(runs_dir: Path, *, keep: int) -> None:
    """Delete the working folders of all but the newest sessions; folder names sort by date."""
    folders = sorted(path for path in runs_dir.glob("*") if path.is_dir())
    for folder in folders[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)
