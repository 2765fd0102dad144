"""Checks that the processes of one side of a comparison use no files of the other side."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil

from pytest_nemoperf.ab.source_trees import ABTrees, source_of
from pytest_nemoperf.ab.worktree import ABSide
from pytest_nemoperf.errors import RevisionError
from pytest_nemoperf.frameworks.protocol import RankCommand

_OPENED_FILE: Final = "opened"
"""In a run directory: paths that ``startup`` noted in the side's Python processes."""
_MODULE: Final = "module "
"""Prefix of a note: the module named after it is in the side's tree, but the process imported another copy."""
_HOOK: Final = Path(__file__).parent / "startup"
_VARIABLE: Final = "NEMOPERF_AB_WATCH"
_MIN_REST: Final = 100
"""Pause after a check, in multiples of its duration: with thousands of processes on a host it takes long."""
_MAX_SHOWN: Final = 3
_USES: Final = {"os.chdir": "as a working directory", "import": "loaded as a module", "ctypes.dlopen": "loaded"}


class ABWatcher:
    """Watches one side's processes from outside through ``/proc``, and from inside through ``startup``.

    Args:
        side: The side that runs the processes.
        trees: The working tree and the checkout.
    """

    def __init__(self, side: ABSide, *, trees: ABTrees) -> None:
        self._is_old = side.name == "old"
        self._entries = side.entries
        self._other = "the working tree" if self._is_old else "the old side's checkout"
        self._trees = trees
        self._next_time = 0.0

    def instrument(self, command: RankCommand, *, run_dir: Path) -> RankCommand:
        """Return the command with ``startup`` switched on: Python processes note opened files in the run directory."""
        trees = self._trees
        folders: list[Path | str] = [trees.old, "", trees.new]
        if self._is_old:
            folders = [trees.new, trees.state_dir, trees.old]
        setting = "\n".join(map(str, [run_dir / _OPENED_FILE, *folders, *self._entries]))
        path = str(_HOOK)
        if command.env.get("PYTHONPATH"):
            path += os.pathsep + command.env["PYTHONPATH"]
        return replace(command, env={**command.env, "PYTHONPATH": path, _VARIABLE: setting})

    def check_processes(self, processes: Callable[[], Iterable[psutil.Process]]) -> None:
        """Check working directories, open files, loaded libraries and programs, unless a check was made just now.

        Args:
            processes: Returns all processes of this side.

        Raises:
            RevisionError: If one uses a file of the other side.
        """
        started = time.monotonic()
        if started < self._next_time:
            return
        found: dict[Path, str] = {}
        for process in processes():
            with suppress(OSError, psutil.Error):  # it has ended, or is another user's
                self._check_process(process, found)
        ended = time.monotonic()
        self._next_time = ended + _MIN_REST * (ended - started)
        self._refuse(found)

    def check_notes(self, run_dir: Path) -> None:
        """Check the files that the Python processes of a launch have noted.

        Raises:
            RevisionError: If one opened a file of the other side, or imported a copy of a module from neither side.
        """
        path = run_dir / _OPENED_FILE
        if not path.exists():
            return
        fields = os.fsdecode(path.read_bytes()).split("\0")
        found: dict[Path, str] = {}
        copies: dict[str, Path] = {}
        for event, name in zip(fields[:-1:2], fields[1::2], strict=True):
            if event.startswith(_MODULE):
                copies.setdefault(event.removeprefix(_MODULE), Path(name))
                continue
            opened = source_of(Path(name))
            if self._is_wrong(opened, is_folder=event == "os.chdir"):
                found.setdefault(opened, _USES.get(event, "opened"))
        self._refuse(found)
        self._refuse_copies(copies)

    def _check_process(self, process: psutil.Process, found: dict[Path, str]) -> None:
        folder = Path(f"/proc/{process.pid}")
        by_process = f"by process {process.pid}, {process.name()}"
        cwd = (folder / "cwd").readlink()
        if self._is_wrong(cwd, is_folder=True):
            found.setdefault(cwd, f"as the working directory {by_process}")
        for path in _open_files(folder):
            if self._is_wrong(path):
                found.setdefault(path, f"open {by_process}")
        for path in _mapped_files(folder):
            if self._is_wrong(path):
                found.setdefault(path, f"loaded {by_process}")

    def _refuse(self, found: Mapping[Path, str]) -> None:
        if not found:
            return
        files = _shortened([f"{path} ({use})" for path, use in found.items()])
        raise RevisionError(
            f"its processes use {self._other}: {files}; both sides would run the same files and be "
            "found equal: name files from the working directory, from __file__ or by PYTHONPATH, which are each side's "
            "own, or put what git does not have into each side by the ini key perf_ab_setup"
        )

    def _refuse_copies(self, copies: Mapping[str, Path]) -> None:
        if not copies:
            return
        modules = _shortened([f"{name} from {path}" for name, path in copies.items()])
        raise RevisionError(
            f"its processes import {modules}, though {' and '.join(self._entries)}, which "
            "PYTHONPATH begins with, has it: both sides would run that one copy and be found equal; don't put its "
            "folder before PYTHONPATH (in sys.path or by the script's own folder), uninstall the copy, or leave the "
            "entry out of the ini key perf_ab_paths if it is not the code under test"
        )

    def _is_wrong(self, path: Path, *, is_folder: bool = False) -> bool:
        """Return whether a path belongs to the other side; it has no symbolic links and may lie anywhere."""
        trees = self._trees
        if not self._is_old:
            return path.is_relative_to(trees.old) and path.exists()
        rel_path = trees.inside_new(path)
        if rel_path is None or not path.exists() or path.is_relative_to(_HOOK):
            return False
        if is_folder:
            return not trees.is_common(rel_path) or str(rel_path) == "."
        return path.is_file() and not trees.is_common(rel_path)


def _shortened(texts: Sequence[str]) -> str:
    """Join the first few texts, and count the others."""
    listed = ", ".join(texts[:_MAX_SHOWN])
    if len(texts) > _MAX_SHOWN:
        listed += f" and {len(texts) - _MAX_SHOWN} more"
    return listed


def _open_files(folder: Path) -> Iterator[Path]:
    for link in (folder / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            yield link.readlink()


def _mapped_files(folder: Path) -> set[Path]:
    """Return the program and the libraries of a process, from its folder in ``/proc``."""
    paths: set[Path] = set()
    for line in (folder / "maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        _, slash, rest = line.partition("/")
        if slash:
            paths.add(Path(f"/{rest}"))
    return paths
