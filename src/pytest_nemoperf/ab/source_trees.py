"""The working tree and the checkout of the old revision: files of one side, and files common to both."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import all_suffixes
from pathlib import Path, PurePosixPath
from typing import Final

from pytest_nemoperf.ab.worktree import Revision, git
from pytest_nemoperf.errors import RevisionError

_SUBMODULE_MODE: Final = "160000"
_PACKAGE_FOLDERS: Final = frozenset({"site-packages", "dist-packages"})
_CODE_SUFFIXES: Final = frozenset({*all_suffixes(), ".sh", ".bash"})
_SCRIPT, _BINARY = b"#!", b"\x7fELF"


@dataclass(frozen=True, slots=True, kw_only=True)
class ABTrees:
    """The two copies of a repository that a comparison runs.

    Paths inside them are relative to their top folders, as git has them. The checkout lies in the session's own folder
    and therefore usually inside the working tree; nothing in that folder counts as a part of the working tree.

    Attributes:
        new: Top folder of the working tree, without symbolic links.
        old: Top folder of the checkout, without symbolic links.
        state_dir: The session's own folder, without symbolic links.
        tracked: Files that git has in the working tree, and their folders.
        submodules: Submodules of the working tree.
        same_submodules: Submodules that are at the same, unchanged commit in both trees.
        linked: Files and folders of the working tree that a set-up command has linked into the checkout.
    """

    new: Path
    old: Path
    state_dir: Path
    tracked: frozenset[str] = frozenset()
    submodules: frozenset[str] = frozenset()
    same_submodules: frozenset[str] = frozenset()
    linked: tuple[Path, ...] = ()

    def inside_new(self, path: Path) -> PurePosixPath | None:
        """Return a path relative to the working tree, or None if it lies elsewhere.

        Args:
            path: Absolute, with no symbolic link above the tree's top folder.
        """
        if path.is_relative_to(self.state_dir) or not path.is_relative_to(self.new):
            return None
        return PurePosixPath(path.relative_to(self.new))

    def has_old(self, rel_path: PurePosixPath) -> bool:
        """Return whether the checkout has a copy; git leaves the folders of submodules empty there."""
        own = self.old / rel_path
        is_left_empty = str(rel_path) in self.submodules and own.is_dir() and not any(own.iterdir())
        return os.path.lexists(own) and not is_left_empty

    def is_common(self, rel_path: PurePosixPath) -> bool:
        """Return whether both sides may use the working tree's copy: it is outside git and not code under test.

        Common are packages installed inside the tree, clones of other repositories, hidden folders (caches of tools),
        data, and submodules that are the same on both sides.
        """
        path = self.new / rel_path
        if rel_path.parts[:1] == (".git",) or any(map(path.is_relative_to, self.linked)):
            return True
        folders = [str(rel_path), *map(str, rel_path.parents)]
        for submodule in self.submodules.intersection(folders):
            return submodule in self.same_submodules
        if str(rel_path) in self.tracked:
            return False
        return path.is_dir() or self._is_foreign(rel_path) or not _is_code(path)

    def is_shared_data(self, rel_path: PurePosixPath) -> bool:
        """Return whether a path is data outside git that both sides use; installed packages and clones are not."""
        if (
            rel_path.parts[:1] in ((), (".git",))
            or str(rel_path) in self.tracked
            or not os.path.lexists(self.new / rel_path)
        ):
            return False
        return self.is_common(rel_path) and not self._is_foreign(rel_path / "_")

    def _is_foreign(self, rel_path: PurePosixPath) -> bool:
        """Return whether a path is installed, cloned or cached: part of neither version of the code."""
        if _PACKAGE_FOLDERS.intersection(rel_path.parts) or self.new / rel_path == Path(sys.executable):
            return True
        for folder in rel_path.parents[:-1]:
            if folder.name.startswith(".") or _is_foreign_folder(self.new / folder):
                return True
        return False


def read_trees(revision: Revision, *, checkout: Path, state_dir: Path) -> ABTrees:
    """Read the files of both trees from git, after set-up commands have run.

    Args:
        revision: The revision that is checked out.
        checkout: Top folder of the checkout.
        state_dir: The session's own folder.

    Raises:
        RevisionError: If git fails, or the working tree is the whole file system.
    """
    new = revision.repository.resolve()
    old = checkout.resolve()
    if new == Path(new.anchor):
        raise RevisionError(
            f"--perf-ab={revision.name}: the top folder of the repository is {new}, so that every path of this machine "
            "would be one of the working tree; move the repository into a folder of its own"
        )
    tracked: set[str] = set()
    submodules: set[str] = set()
    for path, (mode, _) in _index(new):
        tracked.add(path)
        tracked.update(map(str, PurePosixPath(path).parents[:-1]))
        if mode == _SUBMODULE_MODE:
            submodules.add(path)
    same_submodules: set[str] = set()
    for path, (mode, commit) in _index(old):
        if mode == _SUBMODULE_MODE and path in submodules and _is_at(new / path, commit=commit):
            same_submodules.add(path)
    return ABTrees(
        new=new,
        old=old,
        state_dir=state_dir.resolve(),
        tracked=frozenset(tracked),
        submodules=frozenset(submodules),
        same_submodules=frozenset(same_submodules),
        linked=tuple(_linked(new, old=old)),
    )


def source_of(path: Path) -> Path:
    """Return the source of a compiled file in ``__pycache__``, or any other path unchanged."""
    if path.suffix == ".pyc" and path.parent.name == "__pycache__":
        # Up to the first dot: pytest adds its version to the name, with more dots than Python's own function takes.
        return path.parent.parent / f"{path.name.partition('.')[0]}.py"
    return path


def _index(root: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield path, mode and hash of each entry of a tree's index."""
    listing = git("ls-files", "--stage", "-z", root=root, doing=f"git can't list the files of {root}")
    for entry in listing.split("\0"):
        if entry:
            facts, _, path = entry.partition("\t")
            mode, commit, _ = facts.split()
            yield path, (mode, commit)


def _is_at(submodule: Path, *, commit: str) -> bool:
    """Return whether a submodule of the working tree is at a commit, without changes."""
    if not (submodule / ".git").exists():
        return False
    doing = f"git can't tell the state of the submodule {submodule}"
    if git("rev-parse", "HEAD", root=submodule, doing=doing) != commit:
        return False
    return not git("status", "--porcelain", "--untracked-files=no", root=submodule, doing=doing)


def _linked(new: Path, *, old: Path) -> Iterator[Path]:
    """Yield targets in the working tree of links that a set-up command has made in the checkout."""
    changes = git(
        "status", "--porcelain", "-z", "--no-renames", "--ignored", "--untracked-files=all", root=old,
        doing=f"git can't tell what was set up in {old}",
    )  # fmt: skip
    for entry in changes.split("\0"):
        link = old / entry[3:].rstrip("/")
        if link.is_symlink() and link.resolve().is_relative_to(new):
            yield link.resolve()


def _is_foreign_folder(folder: Path) -> bool:
    """Return whether a folder is a clone, a virtual environment, an installation of Python, or was filled by pip."""
    marks = (".git", "pyvenv.cfg", "conda-meta", "lib/python3*", "*.dist-info")
    return any(any(folder.glob(mark)) for mark in marks)


def _is_code(path: Path) -> bool:
    """Return whether a file is a module, library or program, by its name or its first bytes."""
    if path.suffix in _CODE_SUFFIXES or ".so." in path.name:
        return True
    try:
        with path.open("rb") as file:
            return file.read(4).startswith((_SCRIPT, _BINARY))
    except OSError:  # gone, or no permission
        return False
