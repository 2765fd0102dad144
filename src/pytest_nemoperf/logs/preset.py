"""Preset: format of a known framework's log, and the way from its quantities to ours. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_nemoperf.logs.context import LogContext
from pytest_nemoperf.logs.log_format import LogFormat
from pytest_nemoperf.logs.merge import LoggedStep


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Format of a framework's log, and the way from its quantities to ours.

    Attributes:
        log_format: Kind, names and patterns.
        file: Pattern of the files, relative to the command's directory or beginning with ``{run_dir}``; empty for
            the command's own output.
        env: Variables that let the command write such a log; values may hold ``{run_dir}``.
        flops_convention: Convention under which it counts the TFLOP/s that it logs; empty if not known.
        how: What the command must be told to write one that tells every step, in words.
        convert: Quantities of a step as logged to ours, for what names alone can't say; those as logged may have names
            that begin with ``raw.``, which are dropped afterwards. None for none.
        convert_steps: The same for all steps in order, afterwards, for what one step alone can't say: changes their
            values. None for none.
    """

    log_format: LogFormat
    file: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    flops_convention: str = ""
    how: str = ""
    convert: Callable[[Mapping[str, float]], Mapping[str, float]] | None = None
    convert_steps: Callable[[Sequence[LoggedStep], LogContext], None] | None = None
