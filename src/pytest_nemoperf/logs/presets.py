"""Presets by name, each in a module of that name, which is imported when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from pytest_nemoperf.errors import RecipeError, did_you_mean, shown
from pytest_nemoperf.logs.log_format import LogFormat

if TYPE_CHECKING:
    from pytest_nemoperf.logs.preset import Preset

PRESETS: Final = (
    "automodel",
    "automodel_benchmark",
    "automodel_console",
    "lightning",
    "lightning_csv",
    "megatron",
    "megatron_bridge",
    "nemo_rl",
    "nemo_rl_json",
    "torchtitan",
    "torchtitan_events",
    "trainer",
    "trl",
    "trl_console",
)
"""Names that a recipe may give in ``log_format``."""


def check_preset_name(name: str) -> None:
    """Check that there is a preset of that name.

    Raises:
        RecipeError: If there is none.
    """
    if name not in PRESETS:
        raise RecipeError(f"unknown log_format {shown(name)}; {did_you_mean(name, PRESETS)}, or give a LogFormat")


def find_preset(name: str) -> Preset:
    """Return the preset of that name.

    Raises:
        RecipeError: If there is none.
    """
    check_preset_name(name)
    preset: Preset = import_module(f"pytest_nemoperf.logs.formats.{name}").PRESET
    return preset


def preset_of(log_format: str | LogFormat) -> Preset:
    """Return the preset of a name; a format given by hand is one of the command's own output.

    Raises:
        RecipeError: If there is none of that name.
    """
    if isinstance(log_format, LogFormat):
        from pytest_nemoperf.logs.preset import Preset  # noqa: PLC0415  # recipes import this module, and no reader

        return Preset(log_format=log_format)
    return find_preset(log_format)


def name_of(log_format: str | LogFormat) -> str:
    """Return a format's name for messages."""
    if isinstance(log_format, LogFormat):
        return f"the LogFormat of kind {log_format.kind}"
    return f"log_format={log_format!r}"
