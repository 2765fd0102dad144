"""Errors that this package raises, and phrases that their messages share.

A message has the subject, its values, the rule that they break, and a remedy.
"""

from __future__ import annotations

import difflib
import errno
import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeVar

from pytest_nemoperf.visible import visible_text

_E = TypeVar("_E", bound=StrEnum)

MACHINE_PREFIX: Final = "meanwhile on this machine: "
"""Begins a line about the machine's state during a failed launch."""
NO_MEMORY_LEFT: Final = "no memory is left; free some, or raise the limit on it (ulimit -v)"
_MAX_SHOWN_INT: Final = 10**20
_MAX_KNOWN: Final = 500
_MAX_COMPARED: Final = 100  # longer words resemble no known one, and comparing takes time

_REMEDIES: Final[Mapping[int, str]] = MappingProxyType(
    {
        errno.ENOSPC: "free space on that disk",
        errno.EDQUOT: "free space in this user's quota",
        errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
        errno.EMFILE: "raise the limit on open files, as with ulimit -n 1024",
        errno.ENFILE: "close programs: the whole machine has no open file left",
        errno.EAGAIN: "raise the limit on processes (ulimit -u), or end some",
        errno.ENOMEM: "free memory, or raise the limit on it (ulimit -v)",
        errno.EROFS: "mount it for writing, or name another folder",
        errno.EACCES: "give this user the right to it, or name another one",
        errno.EPERM: "give this user the right to it, or name another one",
        errno.ENAMETOOLONG: "choose shorter names",
    }
)
"""Remedy by the error number of the operating system."""


class NemoPerfError(Exception):
    """Base of all errors; its message is safe to print, also with a quote of a hostile file."""

    def __str__(self) -> str:
        return visible_text(super().__str__())


class RecipeError(NemoPerfError, ValueError):
    """A recipe, layout, model or system that breaks a rule."""


class PlanError(NemoPerfError, ValueError):
    """A sound recipe that can't be run on this system or machine."""


class NoLayoutError(PlanError):
    """A recipe without a layout for the system; its test is skipped."""


class UnsupportedError(PlanError):
    """A plan that the framework can't run here; the case is skipped."""


class LaunchError(NemoPerfError, RuntimeError):
    """Ranks that didn't start, failed, hung or were killed, with the first failing rank's own error."""


class LostRankError(LaunchError):
    """A rank's error that only follows from the end of another rank, which is the cause; it has no error file."""


class TurnError(LaunchError):
    """The run of the other side of an A/B comparison has ended; the error of that run is the cause."""


class GenerationError(NemoPerfError, RuntimeError):
    """Responses that can't be generated: logits that are not finite, or a sequence that does not fit."""


class CheckpointError(NemoPerfError, RuntimeError):
    """Weights and optimizer states that could not be saved or loaded, or that differ from the saved ones."""


class RevisionError(NemoPerfError, RuntimeError):
    """The revision of an A/B comparison can't be found, checked out, set up or kept apart from the working tree."""


class GitError(NemoPerfError, RuntimeError):
    """A git command that failed, with git's own message."""


class RecordError(NemoPerfError, ValueError):
    """Records of the ranks that are missing, torn or impossible."""


class BaselineError(NemoPerfError, ValueError):
    """A stored baseline that can't be read, trusted or written."""


class WaiverError(NemoPerfError, ValueError):
    """A waiver that is incomplete or contradictory."""


class PageError(NemoPerfError, ValueError):
    """A performance page with broken blocks, or without the rows that it asks for."""


class LintError(NemoPerfError, ValueError):
    """Checks of stored baselines that can't be made as asked."""


class MachineError(NemoPerfError, RuntimeError):
    """The system asked for is not this machine, or this machine is not in the catalog."""


def os_error_text(error: OSError, *, place: object = "") -> str:
    """Return an error of the operating system as a phrase: path, reason and remedy.

    Args:
        error: The error.
        place: Path of an error that has none of its own, as that of a full disk; empty for none.
    """
    text = error.strerror or str(error) or type(error).__name__
    path = error.filename if error.filename is not None else place
    if str(path):
        text = f"{path}: {text}"
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{text}; {remedy}" if remedy else text


def error_line(error: BaseException) -> str:
    """Return any error as one line: its type, and the first line of its text if there is one."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return shorten(text, most=300)


def in_one_line(error: NemoPerfError) -> str:
    """Return an error as one line: its first, and its last if the first ends with a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    first = lines[0]
    causes = [line for line in lines[1:] if not line.startswith(MACHINE_PREFIX)]
    if not causes or not first.endswith(":"):
        return first
    gap = "... " if len(causes) > 1 else ""
    return f"{first} {gap}{causes[-1]}"


def check_flag(value: object, *, subject: str) -> None:
    """Check that a value is True or False: words such as "no" would count as true.

    Raises:
        RecipeError: If it is anything else.
    """
    if not isinstance(value, bool):
        raise RecipeError(f"{subject}={value!r} must be True or False")


def enum_member(kind: type[_E], value: object, *, subject: str) -> _E:
    """Return the member of an enum with a value.

    Raises:
        RecipeError: If there is none.
    """
    try:
        return kind(value)  # type: ignore[arg-type]  # other types than texts are refused as unknown texts are
    except ValueError:
        raise RecipeError(f"unknown {subject} {shown(value)}; {did_you_mean(value, list(kind))}") from None


def shown(value: object) -> str:
    """Return a short text of any value, for messages."""
    if isinstance(value, int) and abs(value) >= _MAX_SHOWN_INT:  # its digits may be more than Python prints
        sign = "-" if value < 0 else ""
        return f"{sign}10**{math.log10(abs(value)):.4g}"
    try:
        text = repr(value)
    except ValueError:  # such a number somewhere inside
        text = f"a {type(value).__name__}"
    return shorten(text)


def shorten(text: str, *, most: int = 60) -> str:
    """Return a text, or its beginning and dots if it has more than ``most`` characters."""
    return f"{text[:most]} ..." if len(text) > most else text


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return a hint after an unknown word: the nearest known words, or all of them; of thousands, the first ones."""
    every = set(known)
    options = sorted(every)[:_MAX_KNOWN]
    text = word if isinstance(word, str) else shown(word)
    near = difflib.get_close_matches(text[:_MAX_COMPARED], options, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    more = f" and {len(every) - _MAX_KNOWN:,} more" if len(every) > _MAX_KNOWN else ""
    return f"known: {', '.join(options)}{more}"


def count_text(number: int, noun: str) -> str:
    """Return a count with its noun: ``1 case``, ``2 cases``, ``12,000 cases``."""
    return f"{number:,} {plural(noun, number=number)}"


def plural(noun: str, *, number: int) -> str:
    """Return the noun as it follows a number: ``launch`` after 1, else ``launches``."""
    if number == 1:
        return noun
    return f"{noun}es" if noun.endswith(("ch", "ss")) else f"{noun}s"
