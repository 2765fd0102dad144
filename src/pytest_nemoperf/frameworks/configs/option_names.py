"""Names of framework_options: those that a recipe file has, and those that each run sets itself."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from pytest_nemoperf.errors import RecipeError, did_you_mean

_TYPO: Final = 0.9
_SHORT_TYPO: Final = 0.8
_SHORT: Final = 8
"""Similarity of a name and the one that was meant, of difflib; that of names of fewer letters."""


def check_own(names: Iterable[str], *, own: Collection[str], steps: Collection[str], subject: str) -> None:
    """Refuse options that a run overrides with its own values.

    Args:
        names: Names of options without signs; of a section too.
        own: Names that each run sets.
        steps: Those of them that say the number of steps.
        subject: Beginning of messages.

    Raises:
        RecipeError: If an option is one of them, or a section above or below one.
    """
    for name in names:
        for each in own:
            if name == each or name.startswith(f"{each}.") or each.startswith(f"{name}."):
                advice = "use steps= of the recipe" if each in steps else "leave it out of framework_options"
                raise RecipeError(f"{subject}: each run sets {each} itself; {advice}")


def check_known(names: Iterable[str], *, data: Mapping[str, Any], subject: str) -> None:
    """Refuse options that a file does not have; ``+`` before a name adds it.

    Args:
        names: Dotted names of options, as given.
        data: The file's content.
        subject: Beginning of messages.

    Raises:
        RecipeError: If a key is not there.
    """
    for name in names:
        if name.startswith("+"):
            continue
        node: Any = data
        keys = name.split(".")
        for at, key in enumerate(keys):
            known = _keys(node)
            if key not in known:
                place = ".".join(keys[:at])
                hint = did_you_mean(key, known) if known else "it has none there"
                raise RecipeError(
                    f"{subject} has no {key}{f' in {place}' if place else ''}, and framework_options says {name}; "
                    f"{hint} (to add a setting that the file lacks, write '+{name}')"
                )
            node = node[key] if isinstance(node, Mapping) else node[int(key)]


def _keys(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        return [str(key) for key in node]
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [str(at) for at in range(len(node))]
    return []


def check_typo(name: str, *, known: Iterable[str], subject: str, advice: str = "") -> None:
    """Refuse a name that is almost a known one; others may be known to the program.

    Args:
        name: Name of an option, or a part of one.
        known: Names that are known here.
        subject: Beginning of messages.
        advice: End of messages.

    Raises:
        RecipeError: If it is a typo.
    """
    known = list(known)
    if name in known:
        return
    cutoff = _SHORT_TYPO if len(name) < _SHORT else _TYPO
    near = difflib.get_close_matches(name, known, n=3, cutoff=cutoff)
    if near:
        raise RecipeError(f"{subject}: {name!r} in framework_options is not known; {did_you_mean(name, near)}{advice}")
