"""Looks whether the processes of one side of a comparison use the other side's files."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import psutil

from pytest_nemoperf.abtrees import ABTrees, source_of
from pytest_nemoperf.errors import RevisionError
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.worktree import ABSide

OPENED_FILE: Final = "opened"
"""In a run directory: what ``abwatch`` noted in the side's Python processes."""
_MODULE: Final = "module "
"""Begins a note of a module that the side has of its own and a process has from elsewhere; its name follows."""
_HOOK: Final = Path(__file__).parent / "abwatch"
_VARIABLE: Final = "NEMOPERF_AB_WATCH"
_LEAST_REST: Final = 100
"""A look that takes long, as on a host with thousands of processes, is followed by so many times its own time."""
_MAX_SHOWN: Final = 3
_HOW: Final = {"os.chdir": "as a working directory", "import": "loaded as a module", "ctypes.dlopen": "loaded"}


class ABWatcher:
    """Looks at one side's processes from outside, and has their Pythons note what they open.

    Args:
        side: Whose processes.
        trees: The working tree and the checkout.
    """

    def __init__(self, side: ABSide, *, trees: ABTrees) -> None:
        self._is_old = side.name == "old"
        self._entries = [side.root / path for path in side.paths]
        self._other = "the working tree" if self._is_old else "the old side's checkout"
        self._trees = trees
        self._next_time = 0.0

    def watched(self, command: RankCommand, *, run_dir: Path) -> RankCommand:
        """Return a command whose Python processes note in the run directory what they open of the other side."""
        trees = self._trees
        folders = (trees.new, trees.state_dir, trees.old) if self._is_old else (trees.old, "", trees.new)
        setting = "\n".join(map(str, (run_dir / OPENED_FILE, *folders, *self._entries)))
        path = os.pathsep.join(filter(None, [str(_HOOK), command.env.get("PYTHONPATH", "")]))
        return replace(command, env={**command.env, "PYTHONPATH": path, _VARIABLE: setting})

    def look(self, processes: Callable[[], Iterable[psutil.Process]]) -> None:
        """Look at working directories, open files, loaded libraries and programs, if it is time to.

        Args:
            processes: Returns all of this side.

        Raises:
            RevisionError: If one uses a file that it must have of its own.
        """
        started = time.monotonic()
        if started < self._next_time:
            return
        found: dict[Path, str] = {}
        for process in processes():
            with suppress(OSError, psutil.Error):  # it has ended, or is another user's
                self._look_at(process, found)
        ended = time.monotonic()
        self._next_time = ended + _LEAST_REST * (ended - started)
        self._refuse(found)

    def read(self, run_dir: Path) -> None:
        """Read what the Python processes of a launch have noted.

        Raises:
            RevisionError: If one opened a file that the side must have of its own, or imported a foreign copy of one.
        """
        path = run_dir / OPENED_FILE
        if not path.exists():
            return
        words = os.fsdecode(path.read_bytes()).split("\0")
        found: dict[Path, str] = {}
        copies: dict[str, Path] = {}
        for event, name in zip(words[:-1:2], words[1::2], strict=True):
            if event.startswith(_MODULE):
                copies.setdefault(event.removeprefix(_MODULE), Path(name))
            elif self._is_wrong(opened := source_of(Path(name)), is_folder=event == "os.chdir"):
                found.setdefault(opened, _HOW.get(event, "opened"))
        self._refuse(found)
        self._refuse_copies(copies)

    def _look_at(self, process: psutil.Process, found: dict[Path, str]) -> None:
        folder = Path(f"/proc/{process.pid}")
        who = f"by process {process.pid}, {process.name()}"
        cwd = (folder / "cwd").readlink()
        if self._is_wrong(cwd, is_folder=True):
            found.setdefault(cwd, f"as the working directory {who}")
        for path in _open_files(folder):
            if self._is_wrong(path):
                found.setdefault(path, f"open {who}")
        for path in _mapped_files(folder):
            if self._is_wrong(path):
                found.setdefault(path, f"loaded {who}")

    def _refuse(self, found: Mapping[Path, str]) -> None:
        if not found:
            return
        files = _first([f"{path} ({how})" for path, how in found.items()])
        raise RevisionError(
            f"its processes use {self._other}: {files}; both sides would run the same files and be "
            "found equal: name files from the working directory, from __file__ or by PYTHONPATH, which are each side's "
            "own, or put what git does not have into each side by the ini key perf_ab_setup"
        )

    def _refuse_copies(self, copies: Mapping[str, Path]) -> None:
        if not copies:
            return
        modules = _first([f"{name} from {path}" for name, path in copies.items()])
        raise RevisionError(
            f"its processes import {modules}, though {' and '.join(map(str, self._entries))}, which "
            "PYTHONPATH begins with, has it: both sides would run that one copy and be found equal; don't put its "
            "folder before PYTHONPATH (in sys.path or by the script's own folder), uninstall the copy, or leave the "
            "entry out of the ini key perf_ab_paths if it is not the code under test"
        )

    def _is_wrong(self, path: Path, *, is_folder: bool = False) -> bool:
        """Tell whether this side must not use a path, without symbolic links, that may lie anywhere."""
        trees = self._trees
        if not self._is_old:
            return path.is_relative_to(trees.old) and path.exists()
        place = trees.inside_new(path)
        if place is None or not path.exists() or path.is_relative_to(_HOOK):
            return False
        if is_folder:
            return not trees.is_common(place) or str(place) == "."
        return path.is_file() and not trees.is_common(place)


def _first(texts: Sequence[str]) -> str:
    """Return the first few of some texts in one, and how many more there are."""
    more = f" and {len(texts) - _MAX_SHOWN} more" if len(texts) > _MAX_SHOWN else ""
    return ", ".join(texts[:_MAX_SHOWN]) + more


def _open_files(folder: Path) -> Iterator[Path]:
    for link in (folder / "fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            yield link.readlink()


def _mapped_files(folder: Path) -> set[Path]:
    """Return the program and the libraries of a process."""
    lines = (folder / "maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return {Path(line[line.index("/") :]) for line in lines if "/" in line}
