"""Commands of the old side: where they name the working tree, they get the checkout's copy instead."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

from pytest_nemoperf.abtrees import ABTrees
from pytest_nemoperf.errors import RevisionError
from pytest_nemoperf.frameworks.protocol import RankCommand
from pytest_nemoperf.worktree import ABSide

_NOT_CODE: Final = frozenset({"HOME"})
"""Variables of folders in which tools keep models and the like: common, even inside the working tree."""
_ARGUMENTS: Final = "the command's arguments name"
_MAX_ENDS: Final = 200
"""A long script is not searched to its end for a file name with blanks in it."""
_PATTERN: Final = r"$*?\[{"  # after a name they make it another one: /path/project* and /path/project$X
_DELIMITER: Final = r"\s\"'`:;,=()<>|&}\]!^\\"
# A path begins where no other one goes on; right after the letters of an option, too, as in -I/path. Of file:///path
# the last slash is the path's.
_START: Final = re.compile(r"(?<![\w.~/)}\]*?-])(?:--?[A-Za-z][\w-]*+|/+(?=/))?(?P<path>(?:~|\$HOME|\$\{HOME\})?/)")
_NAME: Final = re.compile(rf"/+([^/{_DELIMITER}{_PATTERN}]++)(?![{_PATTERN}])")
_NAME_IS_OVER: Final = re.compile(rf"/|[{_DELIMITER}]|$")
_END: Final = re.compile(rf"[{_DELIMITER}]|$")
_GOES_BACK: Final = re.compile(rf"[^{_DELIMITER}]*/\.\.(?:/|[{_DELIMITER}]|$)")


def command_of(side: ABSide, command: RankCommand, *, trees: ABTrees) -> RankCommand:
    """Return a command that uses a side's code.

    Its PYTHONPATH begins with the side's entries. On the old side, the checkout replaces the working tree wherever an
    argument, a variable of the command or a variable of this process names it: as a word or inside one, with or without
    symbolic links. What git does not have, such as a virtual environment or data, is common to both sides and stays.

    Args:
        side: Whose code.
        command: As the framework made it.
        trees: The working tree and the checkout.

    Raises:
        RevisionError: If the command names a file of the working tree that the old side lacks and must not share, with
            its whole path or from the working directory.
    """
    argv, env = command.argv, dict(command.env)
    if side.name == "old":
        swap = _Swap(trees)
        for word in argv:
            _check_relative(word, trees=trees)
        argv = tuple(swap.argument(word) for word in argv)
        env = {name: swap.variable(name, value) for name, value in env.items()}
        env |= swap.inherited({name: value for name, value in os.environ.items() if name not in {*env, *_NOT_CODE}})
    inherited = env.get("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    entries = [*(str(side.root / path) for path in side.paths), *filter(None, [inherited])]
    return replace(command, argv=argv, env={**env, "PYTHONPATH": os.pathsep.join(entries)})


def shared_data(command: RankCommand, *, trees: ABTrees) -> list[str]:
    """Return data of the working tree that git does not have and that a command names to both sides, as it names it.

    Args:
        command: As the framework made it; command_of takes it.
        trees: The working tree and the checkout.
    """
    swap = _Swap(trees)
    mentions = [mention for text in (*command.argv, *command.env.values()) for mention in swap.mentions(text)]
    shared = [each.text for each in mentions if not trees.has_old(each.place) and trees.is_shared_data(each.place)]
    return list(dict.fromkeys(shared))


def working_directory(side: ABSide, *, trees: ABTrees) -> Path:
    """Return a side's copy of the working directory: Python looks for modules there, too.

    Raises:
        RevisionError: If the old side has none.
    """
    here = Path.cwd()
    place = trees.inside_new(here)
    if side.name != "old" or place is None:
        return here
    if not (trees.old / place).is_dir():
        raise RevisionError(
            f"{side.label} has no folder {place}, the working directory: both sides would start in the working tree; "
            "start pytest in a folder that both versions have"
        )
    return trees.old / place


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mention:
    """A path of the working tree inside a text.

    Attributes:
        start: Its first character.
        end: The one after its last.
        text: As it stands there.
        place: Inside the tree.
        own: The checkout's copy.
    """

    start: int
    end: int
    text: str
    place: PurePosixPath
    own: str


class _Swap:
    """Replaces paths of the working tree by those of the checkout."""

    def __init__(self, trees: ABTrees) -> None:
        self._trees = trees

    def argument(self, word: str) -> str:
        return self._swapped(word, subject=_ARGUMENTS)

    def variable(self, name: str, value: str) -> str:
        # A search path may name folders that one side lacks: it finds nothing there.
        return self._swapped(value, subject=f"the recipe's {name} names", may_lack_folders=name.endswith("PATH"))

    def inherited(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return those variables that change.

        Nobody set them for this command, so it is no error if one names what the old side lacks. A file, such as that
        of LD_PRELOAD, stays the working tree's: whoever uses it is found out, while to run without it would be
        another comparison.
        """
        swapped = {
            name: self._swapped(value, subject=name, may_lack_folders=True, may_lack_files=True)
            for name, value in environment.items()
        }
        return {name: value for name, value in swapped.items() if value != environment[name]}

    def _swapped(self, text: str, *, subject: str, may_lack_folders: bool = False, may_lack_files: bool = False) -> str:
        parts: list[str] = []
        done = 0
        for mention in self.mentions(text):
            own = self._own(mention)
            if own is None:
                is_folder = (self._trees.new / mention.place).is_dir()
                if not (may_lack_folders if is_folder else may_lack_files):
                    raise RevisionError(_lacks(mention.text, place=mention.place, subject=subject))
                own = mention.own if is_folder else mention.text
            parts += [text[done : mention.start], own]
            done = mention.end
        return "".join([*parts, text[done:]])

    def mentions(self, text: str) -> Iterator[_Mention]:
        """Yield the paths of the working tree in a text, from left to right."""
        done = 0
        for found in _START.finditer(text):
            start = found.start("path")
            mention = self._mention(text, start=start) if start >= done else None
            if mention is not None:
                done = mention.end
                yield mention

    def _own(self, mention: _Mention) -> str | None:
        """Return the old side's replacement of a mention: its own copy, the same where it is common, or None."""
        trees, place = self._trees, mention.place
        while not (trees.has_old(place) or os.path.lexists(trees.new / place)):
            place = place.parent  # a file that is yet to be written, or a pattern of names: the folder decides
        if trees.has_old(place):
            return mention.own
        return mention.text if trees.is_common(place) else None

    def _mention(self, text: str, *, start: int) -> _Mention | None:
        """Return the mention that begins there, if that path leads into the working tree."""
        entered = self._enter(text, start=start)
        if entered is None:
            return None
        entry, entry_end = entered
        end = self._end(text, entry=entry, entry_end=entry_end)
        rest = text[entry_end:end]
        place = PurePosixPath(f"{entry}{rest}")
        if self._trees.inside_new(self._trees.new / place) is None:
            return None
        own = f"{self._trees.old / entry}{rest}"
        return _Mention(start=start, end=end, text=text[start:end], place=place, own=own)

    def _enter(self, text: str, *, start: int) -> tuple[PurePosixPath, int] | None:
        """Follow a path until it is in the working tree for good; return where in it, and the end of what was followed.

        Symbolic links are followed one by one: a tree has as many names as there are links to it.
        """
        new = self._trees.new
        end = text.index("/", start)
        folder = Path("/" if end == start else os.environ.get("HOME", "/")).resolve()
        if text.startswith(str(new), start) and _NAME_IS_OVER.match(text, start + len(str(new))):
            folder, end = new, start + len(str(new))  # whatever characters its name has
        while not folder.is_relative_to(new) or _GOES_BACK.match(text, end):
            name = _NAME.match(text, end)
            if name is None:
                return None
            folder, end = _step(folder, name[1]), name.end()
        return PurePosixPath(folder.relative_to(new)), end

    def _end(self, text: str, *, entry: PurePosixPath, entry_end: int) -> int:
        """Return the end of a path that has entered the working tree: the longest that exists, or the first."""
        if not text.startswith("/", entry_end):
            return entry_end
        ends = [found.start() for found in islice(_END.finditer(text, entry_end), _MAX_ENDS)]
        for end in reversed(ends):
            path = f"{entry}{text[entry_end:end]}"
            if os.path.lexists(self._trees.new / path) or os.path.lexists(self._trees.old / path):
                return end
        return ends[0]


def _check_relative(word: str, *, trees: ABTrees) -> None:
    """Check that the old side has a file that an argument names from the working directory.

    Raises:
        RevisionError: If it is the working tree's own, and the revision has none.
    """
    name = word.partition("=")[2] if word.startswith("-") else word
    here = trees.inside_new(Path.cwd().resolve())
    if here is None or not name or Path(name).is_absolute():
        return
    place = trees.inside_new(Path(os.path.normpath(trees.new / here / name)))
    if place is None or not os.path.isfile(trees.new / place):  # noqa: PTH113 (Path fails for a long word)
        return
    if trees.has_old(place) or trees.is_common(place):
        return
    raise RevisionError(_lacks(name, place=place, subject=_ARGUMENTS))


def _lacks(text: str, *, place: PurePosixPath, subject: str) -> str:
    return (
        f"{subject} {text}, but the revision has no {place}, and the old side must not use the working tree's; compare "
        "with a revision that has it, or put it there by the ini key perf_ab_setup, which finds the root directory of "
        "the working tree in NEMOPERF_AB_PROJECT"
    )


def _step(folder: Path, name: str) -> Path:
    """Return the place that a name in a folder leads to."""
    if name in {".", ".."}:
        return folder.parent if name == ".." else folder
    path = folder / name
    try:
        return path.resolve() if path.is_symlink() else path
    except (OSError, RuntimeError):  # not ours to read, or a link that leads to itself
        return path
