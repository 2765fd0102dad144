"""Checks of a recipe's fields that are more than a bound, and their values in one form."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final

from pytest_nemoperf.errors import RecipeError, did_you_mean, shown
from pytest_nemoperf.layouts.layout import Layout, layout_of
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.metrics import EXTRA_METRICS

UNSTATED: Final = ("recompute", "shard_optimizer")
"""Settings that a recipe may leave unstated: pages print neither, and memory depends on both."""

_PLACEHOLDER = re.compile(r"\{\w+\}")


def check_placeholders(command: Sequence[str]) -> None:
    """Check that braces that resemble a placeholder are one: others, as of JSON, are the program's own.

    Raises:
        RecipeError: If they are none.
    """
    known = ("{run_dir}", "{total_steps}")
    for word in command:
        for found in _PLACEHOLDER.findall(word):
            near = difflib.get_close_matches(found, known, n=1, cutoff=0.8)
            if near and found not in known:
                raise RecipeError(f"command: {found} in {word!r} is no placeholder; did you mean {near[0]}?")


def layouts_of(layouts: Mapping[str, Layout | Mapping[str, Any]]) -> dict[str, Layout]:
    """Return layouts by system name, those of plain data as Layouts.

    Raises:
        RecipeError: If a system or a value of a layout is unknown.
    """
    if not isinstance(layouts, Mapping):
        raise RecipeError(
            f"layouts={shown(layouts)} must be layouts by system name; write e.g. {{'cpu': Layout(gpus=1)}}"
        )
    made = {}
    for system, layout in layouts.items():
        made[system] = layout_of(layout, system=find_system(system).name)
    return made


def argv_of(words: Sequence[str | PurePath]) -> tuple[str, ...]:
    """Return the words of a command; paths as texts.

    Raises:
        RecipeError: If they are no list of words.
    """
    example = "('python', 'train.py')"
    if isinstance(words, (list, tuple)):
        words = [str(word) if isinstance(word, PurePath) else word for word in words]
    argv = texts_of(words, subject="command", example=example)
    if len(argv) == 1 and len(argv[0].split()) > 1 and "/" not in argv[0].split()[0]:
        raise RecipeError(
            f"command={shown(list(argv))} is one word with spaces in it, the name of one program; give a list of "
            f"words, e.g. {example}: shlex.split makes one of a line of a shell"
        )
    return argv


def texts_of(values: object, *, subject: str, example: str) -> tuple[str, ...]:
    """Return a list of texts as a tuple.

    Args:
        values: Value of a field.
        subject: Name of the field.
        example: A right value, as it is written.

    Raises:
        RecipeError: If it is no list of texts.
    """
    if not isinstance(values, (list, tuple)):
        hint = ", as shlex.split makes of a line" if isinstance(values, str) and len(values.split()) > 1 else ""
        raise RecipeError(f"{subject}={shown(values)} must be a list of texts; write e.g. {example}{hint}")
    for at, value in enumerate(values):
        if type(value) is not str:
            raise RecipeError(f"{subject}[{at}]={shown(value)} must be a text; write str(...)")
    return tuple(values)


def check_unstated(names: Sequence[str]) -> None:
    """Check names of settings that a recipe leaves unstated.

    Raises:
        RecipeError: If one may not be.
    """
    for name in names:
        if name not in UNSTATED:
            raise RecipeError(
                f"unstated: {shown(name)} is no setting that may be unstated; {did_you_mean(name, UNSTATED)}"
            )


def check_extra_metrics(names: Sequence[str]) -> None:
    """Check names of metrics that a recipe asks for.

    Raises:
        RecipeError: If one is not measured on request, or is named twice.
    """
    known = [metric.name for metric in EXTRA_METRICS]
    for name in names:
        if name not in known:
            raise RecipeError(
                f"extra_metrics: {shown(name)} is no metric that is measured on request; {did_you_mean(name, known)}"
            )
    if len(set(names)) < len(names):
        raise RecipeError(f"extra_metrics={shown(list(names))} names a metric twice; name each once")
