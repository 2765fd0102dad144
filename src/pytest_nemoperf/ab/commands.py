"""Commands of both sides; on the old side the checkout's paths replace those of the working tree."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

from pytest_nemoperf.ab.source_trees import ABTrees
from pytest_nemoperf.ab.worktree import ABSide
from pytest_nemoperf.errors import RevisionError
from pytest_nemoperf.frameworks.protocol import RankCommand

_NOT_CODE: Final = frozenset({"HOME"})
"""Variables of folders in which tools keep models and caches: common, even inside the working tree."""
_ARGUMENTS: Final = "the command's arguments name"
_MAX_ENDS: Final = 200
"""Delimiters at which a path with blanks may end: limits the search in a long script."""
_PATTERN: Final = r"$*?\[{"  # behind a name these make it another name: /path/project* and /path/project$X
_DELIMITER: Final = r"\s\"'`:;,=()<>|&}\]!^\\"
# A path begins where no other one goes on; right after the letters of an option, too, as in -I/path. Of file:///path
# the last slash is the path's.
_START: Final = re.compile(r"(?<![\w.~/)}\]*?-])(?:--?[A-Za-z][\w-]*+|/+(?=/))?(?P<path>(?:~|\$HOME|\$\{HOME\})?/)")
_NAME: Final = re.compile(rf"/+([^/{_DELIMITER}{_PATTERN}]++)(?![{_PATTERN}])")
_NAME_IS_OVER: Final = re.compile(rf"/|[{_DELIMITER}]|$")
_END: Final = re.compile(rf"[{_DELIMITER}]|$")
_GOES_BACK: Final = re.compile(rf"[^{_DELIMITER}]*/\.\.(?:/|[{_DELIMITER}]|$)")


def command_of(
    side: ABSide,
    command: RankCommand,
    *,
    trees: ABTrees,
    directory: Path | None = None,
    may_be_lacking: Collection[str] = (),
) -> RankCommand:
    """Return a command that uses a side's code.

    Its PYTHONPATH begins with the side's entries. On the old side, the checkout replaces the working tree in each path
    that arguments, variables of the command and variables of this process contain, also behind symbolic links.
    Files that git does not have, such as a virtual environment or data, are common to both sides and stay.

    Args:
        side: The side to run.
        command: Command of the framework.
        trees: The working tree and the checkout.
        directory: The command's working directory in the working tree; None for this process's own.
        may_be_lacking: Arguments that may name what the old side lacks.

    Raises:
        RevisionError: If the command names, by an absolute path or one from the working directory, a file of the
            working tree that the old side lacks and must not share.
    """
    argv = command.argv
    env = dict(command.env)
    if side.name == "old":
        swap = _PathSwap(trees)
        words: list[str] = []
        for word in argv:
            may_lack = word in may_be_lacking
            if not may_lack:
                _check_relative(word, trees=trees, directory=directory or Path.cwd())
            words.append(swap.argument(word, may_lack=may_lack))
        argv = tuple(words)
        env = {name: swap.variable(name, value) for name, value in env.items()}
        env |= swap.inherited(os.environ, excluded=_NOT_CODE.union(env))
    entries = side.entries
    inherited = env.get("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    if inherited:
        entries.append(inherited)
    return replace(command, argv=argv, env={**env, "PYTHONPATH": os.pathsep.join(entries)})


def shared_data(command: RankCommand, *, trees: ABTrees) -> list[str]:
    """Return paths in a command to data of the working tree outside git: both sides use it.

    Args:
        command: Command of the framework.
        trees: The working tree and the checkout.
    """
    swap = _PathSwap(trees)
    shared: list[str] = []
    for text in (*command.argv, *command.env.values()):
        for mention in swap.mentions(text):
            is_shared = not trees.has_old(mention.rel_path) and trees.is_shared_data(mention.rel_path)
            if is_shared and mention.text not in shared:
                shared.append(mention.text)
    return shared


def working_directory(side: ABSide, *, trees: ABTrees, directory: Path | None = None) -> Path:
    """Return a side's copy of the working directory, as Python may import modules from there.

    Args:
        side: The side to run.
        trees: The working tree and the checkout.
        directory: The directory in the working tree; None for this process's own.

    Raises:
        RevisionError: If the old side has no such folder.
    """
    here = directory or Path.cwd()
    rel_path = trees.inside_new(here)
    if side.name != "old" or rel_path is None:
        return here
    if not (trees.old / rel_path).is_dir():
        raise RevisionError(
            f"{side.label} has no folder {rel_path}, the working directory: both sides would start in the working "
            "tree; start pytest in a folder that both versions have"
        )
    return trees.old / rel_path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mention:
    """A path of the working tree inside a text.

    Attributes:
        start: Index of its first character.
        end: Index after its last character.
        text: The path as it is written.
        rel_path: The path relative to the tree's top folder.
        old: The path of the checkout's copy.
    """

    start: int
    end: int
    text: str
    rel_path: PurePosixPath
    old: str


class _PathSwap:
    """Replaces paths of the working tree by those of the checkout."""

    def __init__(self, trees: ABTrees) -> None:
        self._trees = trees

    def argument(self, word: str, *, may_lack: bool = False) -> str:
        return self._swapped(word, subject=_ARGUMENTS, may_lack_folders=may_lack, may_lack_files=may_lack)

    def variable(self, name: str, value: str) -> str:
        # A search path may name folders that one side lacks: it finds nothing there.
        return self._swapped(value, subject=f"the recipe's {name} names", may_lack_folders=name.endswith("PATH"))

    def inherited(self, environment: Mapping[str, str], *, excluded: Collection[str]) -> dict[str, str]:
        """Return the variables that change, without excluded ones.

        They were not set for this command, so it is no error if one names a file that the old side lacks. A file, such
        as that of LD_PRELOAD, stays the working tree's: without it the comparison would be another one, and the watcher
        reports processes that use it.
        """
        changed: dict[str, str] = {}
        for name, value in environment.items():
            if name in excluded:
                continue
            swapped = self._swapped(value, subject=name, may_lack_folders=True, may_lack_files=True)
            if swapped != value:
                changed[name] = swapped
        return changed

    def _swapped(self, text: str, *, subject: str, may_lack_folders: bool = False, may_lack_files: bool = False) -> str:
        parts: list[str] = []
        done = 0
        for mention in self.mentions(text):
            replacement = self._replacement(mention)
            if replacement is None:
                may_lack = may_lack_files
                replacement = mention.text
                if (self._trees.new / mention.rel_path).is_dir():
                    may_lack = may_lack_folders
                    replacement = mention.old
                if not may_lack:
                    raise RevisionError(_lacks(mention.text, rel_path=mention.rel_path, subject=subject))
            parts += [text[done : mention.start], replacement]
            done = mention.end
        return "".join([*parts, text[done:]])

    def mentions(self, text: str) -> Iterator[_Mention]:
        """Yield the paths of the working tree in a text, from left to right."""
        done = 0
        for found in _START.finditer(text):
            start = found.start("path")
            if start < done:
                continue
            mention = self._mention(text, start=start)
            if mention is not None:
                done = mention.end
                yield mention

    def _replacement(self, mention: _Mention) -> str | None:
        """Return the path for the old side: the checkout's copy, or the same path if it is common; None if neither."""
        trees = self._trees
        rel_path = mention.rel_path
        while not (trees.has_old(rel_path) or os.path.lexists(trees.new / rel_path)):
            rel_path = rel_path.parent  # a file that is yet to be written, or a pattern of names: the folder decides
        if trees.has_old(rel_path):
            return mention.old
        if trees.is_common(rel_path):
            return mention.text
        return None

    def _mention(self, text: str, *, start: int) -> _Mention | None:
        """Return the path that begins at an index, or None if it does not lead into the working tree."""
        entered = self._enter(text, start=start)
        if entered is None:
            return None
        entry, entry_end = entered
        end = self._end(text, entry=entry, entry_end=entry_end)
        rest = text[entry_end:end]
        rel_path = PurePosixPath(f"{entry}{rest}")
        if self._trees.inside_new(self._trees.new / rel_path) is None:
            return None
        old = f"{self._trees.old / entry}{rest}"
        return _Mention(start=start, end=end, text=text[start:end], rel_path=rel_path, old=old)

    def _enter(self, text: str, *, start: int) -> tuple[PurePosixPath, int] | None:
        """Follow a path, symbolic links included, until it is inside the working tree and does not leave it again.

        Returns:
            The relative path in the tree, and the index after the part of the path that led there; None if none does.
        """
        new = self._trees.new
        end = text.index("/", start)
        folder = Path("/")
        if end > start:
            folder = Path(os.environ.get("HOME", "/")).resolve()
        if text.startswith(str(new), start) and _NAME_IS_OVER.match(text, start + len(str(new))):
            folder = new  # its name may have characters that _NAME excludes
            end = start + len(str(new))
        while not folder.is_relative_to(new) or _GOES_BACK.match(text, end):
            name = _NAME.match(text, end)
            if name is None:
                return None
            folder = _resolve_child(folder, name[1])
            end = name.end()
        return PurePosixPath(folder.relative_to(new)), end

    def _end(self, text: str, *, entry: PurePosixPath, entry_end: int) -> int:
        """Return the end of a path in the working tree: of the longest path that exists, else the first delimiter."""
        if not text.startswith("/", entry_end):
            return entry_end
        ends = [found.start() for found in islice(_END.finditer(text, entry_end), _MAX_ENDS)]
        for end in reversed(ends):
            path = f"{entry}{text[entry_end:end]}"
            if os.path.lexists(self._trees.new / path) or os.path.lexists(self._trees.old / path):
                return end
        return ends[0]


def _check_relative(word: str, *, trees: ABTrees, directory: Path) -> None:
    """Check that the old side has a file that an argument names from the working directory.

    Raises:
        RevisionError: If it belongs to the working tree, and the revision has none.
    """
    name = word.partition("=")[2] if word.startswith("-") else word
    here = trees.inside_new(directory.resolve())
    if here is None or not name or Path(name).is_absolute():
        return
    rel_path = trees.inside_new(Path(os.path.normpath(trees.new / here / name)))
    if rel_path is None or not os.path.isfile(trees.new / rel_path):  # noqa: PTH113 (Path fails for a long word)
        return
    if trees.has_old(rel_path) or trees.is_common(rel_path):
        return
    raise RevisionError(_lacks(name, rel_path=rel_path, subject=_ARGUMENTS))


def _lacks(text: str, *, rel_path: PurePosixPath, subject: str) -> str:
    return (
        f"{subject} {text}, but the revision has no {rel_path}, and the old side must not use the working tree's; "
        "compare with a revision that has it, or put it there by the ini key perf_ab_setup, which finds the root "
        "directory of the working tree in NEMOPERF_AB_PROJECT"
    )


def _resolve_child(folder: Path, name: str) -> Path:
    """Return the path of a name in a folder, with a symbolic link resolved."""
    if name == ".":
        return folder
    if name == "..":
        return folder.parent
    path = folder / name
    try:
        if path.is_symlink():
            return path.resolve()
    except (OSError, RuntimeError):  # no permission, or a link to itself
        pass
    return path
