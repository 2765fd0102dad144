"""Formats of known frameworks' logs, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from pytest_nemoperf.errors import RecipeError, did_you_mean
from pytest_nemoperf.logs.log_format import LogFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Format of a framework's log, and what its numbers mean beside ours.

    Attributes:
        log_format: Kind, names and patterns.
        file: Pattern of the files, relative to the command's directory or beginning with ``{run_dir}``; empty for
            the command's own output.
        env: Variables that let the command write such a log; values may hold ``{run_dir}``.
        how: What the command must be told to write one, in words.
    """

    log_format: LogFormat
    file: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    how: str = ""


PRESETS: Mapping[str, Preset] = MappingProxyType({})
"""Presets by the name that a recipe gives in ``log_format``."""


def find_preset(name: str) -> Preset:
    """Return the preset of that name.

    Raises:
        RecipeError: If there is none.
    """
    if name not in PRESETS:
        raise RecipeError(f"unknown log_format {name!r}; {did_you_mean(name, PRESETS)}, or give a LogFormat")
    return PRESETS[name]
