"""Every error this package raises on purpose: subject, values, rule, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

MEANWHILE: Final = "meanwhile on this machine: "
"""Begins what the machine was like while a launch failed: not the cause, but maybe why."""


class NemoPerfError(Exception):
    """Base of all errors a user can cause or meet."""


class RecipeError(NemoPerfError, ValueError):
    """A recipe, layout, model or system that can't be, with the rule it breaks."""


class PlanError(NemoPerfError, ValueError):
    """A recipe that is sound, but can't be run on this system or machine."""


class NoLayoutError(PlanError):
    """A recipe without a layout for the system: nothing is wrong, there is nothing to run; a test skips."""


class UnsupportedError(PlanError):
    """The framework can't run this plan here, and says why; the case is skipped."""


class LaunchError(NemoPerfError, RuntimeError):
    """Ranks that didn't start, failed, hung or were killed; carries the first failing rank's own error."""


class TurnError(LaunchError):
    """The other side of a comparison in turns is gone: a consequence, never the cause."""


class GenerationError(NemoPerfError, RuntimeError):
    """Responses that can't be generated: logits that are not finite, or a sequence that does not fit."""


class RevisionError(NemoPerfError, RuntimeError):
    """The other version of a comparison can't be found, checked out, set up or kept apart from the working tree."""


class GitError(NemoPerfError, RuntimeError):
    """git can't tell what it was asked; the message is git's own reason."""


class RecordError(NemoPerfError, ValueError):
    """What the ranks wrote is missing, torn or impossible."""


class BaselineError(NemoPerfError, ValueError):
    """A stored baseline that can't be read, trusted or written."""


class WaiverError(NemoPerfError, ValueError):
    """A waiver that says too little, or something that can't be."""


class LintError(NemoPerfError, ValueError):
    """Checks of stored baselines that can't be made as asked."""


class MachineError(NemoPerfError, RuntimeError):
    """The system asked for is not this machine, or this machine is not in the catalog."""


def in_one_line(error: NemoPerfError) -> str:
    """Return an error for a list: its first line, and what follows it where that ends with a colon.

    Of several lines the last one is the cause: where a log ends.
    """
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    causes = [line for line in others if not line.startswith(MEANWHILE)]
    if causes and first.endswith(":"):
        return f"{first} {'... ' if len(causes) > 1 else ''}{causes[-1]}"
    return first


def check_flag(value: object, *, subject: str) -> None:
    """Check that a value is True or False: words such as "no" would count as true.

    Raises:
        RecipeError: If it is anything else.
    """
    if not isinstance(value, bool):
        raise RecipeError(f"{subject}={value!r} must be True or False")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return what to say after an unknown word: the nearest known ones, or all of them."""
    options = sorted(known)
    near = difflib.get_close_matches(word, options, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(options)}"
