"""Format of a training log: its kind, its files, and its names for the quantities of a step. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from dataclasses import fields as fields_of
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import Final, Literal

from pytest_nemoperf.errors import RecipeError, did_you_mean, enum_member, shown

RUN_DIR: Final = "{run_dir}"
"""Stands for the directory of the run in the pattern of a log's files, and in a command."""
TOTAL_STEPS: Final = "{total_steps}"
"""Stands for the number of steps, warm-up included, in a command."""
WALL_TIME: Final = "wall_time"
"""Stands for a tag of event files: the clock at which the first of a step's scalars that a format names was written."""

RAW: Final = "raw."
"""Begins the names of quantities that only a preset's own conversion knows."""
_CLOCK: Final = "end_time_sec"
_TIMES: Final = ("step_time_sec", "step_time_ms", "tokens_per_sec", "tokens_per_sec_per_gpu")
TIME_SOURCES: Final = (*_TIMES, _CLOCK)
"""Quantities of which a log needs one, since step times follow from them."""
_COMMAS: Final = ("", "thousands", "decimal")


class LogKind(StrEnum):
    """Kind of file that a log is."""

    TEXT = "text"
    """Lines for people, read by regular expressions."""
    DICT = "dict"
    """Lines that are a Python dict each, as Hugging Face's trainers print them."""
    JSONL = "jsonl"
    """One JSON object a line."""
    CSV = "csv"
    """Columns with a head."""
    JSON = "json"
    """One JSON object: value by step by metric."""
    TENSORBOARD = "tensorboard"
    """Event files."""


_QUANTITIES: Mapping[str, str] = MappingProxyType(
    {
        "step": "number of the step, counted from any number",
        "step_time_sec": "seconds that the step took",
        "step_time_ms": "milliseconds that the step took",
        "end_time_sec": "clock at the end of the step, seconds since any time",
        "start_time_sec": "the same clock at its beginning, where no earlier line tells it",
        "tokens": "tokens of the step, over all ranks",
        "tokens_total": "tokens since the start, over all ranks, this step included",
        "sequences": "sequences of the step, over all ranks",
        "tokens_per_sec": "tokens per second, over all ranks",
        "tokens_per_sec_per_gpu": "tokens per second and GPU",
        "tflops_per_sec_per_gpu": "model TFLOP per second and GPU, which tokens and time are checked against",
        "loss": "loss of the step",
        "grad_norm": "norm of the gradient",
        "skipped_updates": "optimizer updates that were left out, e.g. because of gradients that are not finite",
        "peak_memory_gib": "largest memory of a rank, GiB",
        "peak_memory_mib": "the same in MiB",
        "peak_memory_gb": "the same in GB",
        "peak_memory_bytes": "the same in bytes",
    }
)
"""Quantities but phases and rollouts, by the name that a format gives them."""


@cache
def quantities() -> Mapping[str, str]:
    """Return the quantities that a log may hold, by the name of a format; regular expressions write ``.`` as ``__``."""
    from pytest_nemoperf.records.step import (  # noqa: PLC0415 (or every test that imports a Recipe loads msgspec)
        PRETRAIN_PHASES,
        RL_PHASES,
        RolloutStats,
    )

    names = dict(_QUANTITIES)
    for phase in (*PRETRAIN_PHASES, *RL_PHASES):
        names[f"phase.{phase}_sec"] = f"seconds of the phase {phase}"
    for item in fields_of(RolloutStats):
        if item.type != "str":
            names[f"rollout.{item.name}"] = f"{item.name} of the rollouts"
    return MappingProxyType(names)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFormat:
    r"""A training log that no preset reads: its kind and its names for the quantities of a step.

    Attributes:
        kind: ``text``, ``dict``, ``jsonl``, ``csv``, ``json`` or ``tensorboard``.
        patterns: Text: regular expressions whose named groups are quantities, such as
            ``r"step (?P<step>\d+) .* took (?P<step_time_ms>[\d.]+) ms"``. Lines of one step may match different
            ones.
        fields: Other kinds: key, column or tag by quantity, such as ``{"step_time_sec": "timing/step"}``.
        comma: What a comma in a number is: ``thousands`` for 1,234.5, ``decimal`` for 1.234,5. Empty: numbers that
            could be either are refused.

    Raises:
        RecipeError: If a quantity is unknown or none is a time, a regular expression is broken or names nothing, an
            attribute is of another type, or the kind needs the other attribute.
    """

    kind: LogKind
    patterns: tuple[str, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    comma: Literal["", "thousands", "decimal"] = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", enum_member(LogKind, self.kind, subject="kind of log"))
        object.__setattr__(self, "patterns", _patterns_of(self.patterns))
        _check_fields(self.fields)
        is_text = self.kind is LogKind.TEXT
        if bool(self.patterns) != is_text or bool(self.fields) == is_text:
            needed = "patterns" if is_text else "fields"
            raise RecipeError(f"a log of kind {self.kind} needs {needed}, and only these; give {needed}=...")
        if self.comma not in _COMMAS:
            raise RecipeError(f"log_format: comma={shown(self.comma)} must be one of {', '.join(map(repr, _COMMAS))}")
        for name in self.names():
            if name not in quantities() and not name.startswith(RAW):
                raise RecipeError(f"log_format: unknown quantity {shown(name)}; {did_you_mean(name, quantities())}")
        self._check_names()

    def _check_names(self) -> None:
        """Refuse a format that leaves step times unknown, and patterns that name nothing."""
        for pattern in self.patterns:
            if not re.compile(pattern).groupindex:
                raise RecipeError(
                    f"log_format: {shown(pattern)} names no quantity; put named groups around its numbers, such as "
                    r"(?P<step_time_sec>\S+)"
                )
        names = set(self.names())
        if not names & set(TIME_SOURCES) and not any(name.startswith(RAW) for name in names):
            raise RecipeError(
                f"log_format: no time, rate or clock among its quantities ({', '.join(sorted(names))}); name one of "
                f"{', '.join(TIME_SOURCES)}"
            )

    @property
    def is_clocked(self) -> bool:
        """Step times follow from a clock at the end of each step alone, so that the first step has none.

        Event files begin with the time at which they were made, before their first step.
        """
        names = set(self.names())
        has_start = self.kind is LogKind.TENSORBOARD and self.fields.get(_CLOCK) == WALL_TIME
        return _CLOCK in names and names.isdisjoint(_TIMES) and not has_start

    def names(self) -> Iterator[str]:
        """Yield the quantities that it names; of patterns, each one's.

        Raises:
            RecipeError: If a regular expression is broken.
        """
        yield from self.fields
        for pattern in self.patterns:
            try:
                groups = re.compile(pattern).groupindex
            except (re.error, OverflowError, RecursionError) as error:
                raise RecipeError(f"log_format: {shown(pattern)} is no regular expression: {error}") from None
            for name in groups:
                yield quantity_of(name)


def _patterns_of(patterns: object) -> tuple[str, ...]:
    """Return patterns as a tuple; one alone needs none, for one is often all there is.

    Raises:
        RecipeError: If they are no texts.
    """
    if isinstance(patterns, str):
        return (patterns,)
    if not isinstance(patterns, tuple | list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise RecipeError(f"log_format: patterns={shown(patterns)} must be regular expressions: texts in a tuple")
    return tuple(patterns)


def _check_fields(fields: object) -> None:
    """Check that fields are texts by text.

    Raises:
        RecipeError: If they are not.
    """
    example = 'such as {"step_time_sec": "timing/step"}'
    if not isinstance(fields, Mapping):
        raise RecipeError(
            f"log_format: fields={shown(fields)} must be a dict of key, column or tag by quantity, {example}"
        )
    for name, key in fields.items():
        if not (isinstance(name, str) and isinstance(key, str) and key):
            raise RecipeError(
                f"log_format: fields has {shown(name)}: {shown(key)}, and both must be texts: key, column or tag by "
                f"quantity, {example}"
            )


def quantity_of(group: str) -> str:
    """Return the quantity that a group of a regular expression names."""
    return group.replace("__", ".")
