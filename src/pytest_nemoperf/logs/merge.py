"""Steps from the rows of a log: each told once, in order, by one writer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.logs.rows import LogRow

_OF_MANY_RANKS = frozenset({"peak_memory_gib", "peak_memory_mib", "peak_memory_gb", "peak_memory_bytes"})
"""Quantities that several ranks may tell, at any time after the step: the largest counts."""
_ONE_RANK = (
    "let only one rank log (e.g. `if rank == 0`, torchrun --local-ranks-filter 0, LOG_RANK=0), or give the log of one "
    "rank alone"
)


@dataclass(slots=True, kw_only=True)
class LoggedStep:
    """Quantities of one step as logged.

    Attributes:
        step: Its number in the log.
        values: Value by name of a quantity.
        places: File and line by name of a quantity, and of ``step``, which is that of its first line.
        rank: Rank in the prefix of its first line; empty without one.
        clock: Time at which its last line was written and the resolution of that, in seconds; None if not known.
    """

    step: int
    values: dict[str, float] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    rank: str = ""
    clock: tuple[float, float] | None = None

    @property
    def where(self) -> str:
        """File and line of its first line."""
        return next(iter(self.places.values()), "")

    def subject(self, *names: str) -> str:
        """Return the line of the first of these quantities that it has, and the step, as messages begin."""
        for name in names:
            if name in self.places:
                return f"{self.places[name]}: step {self.step}"
        return f"{self.where}: step {self.step}"


def merge_rows(rows: Iterable[LogRow]) -> list[LoggedStep]:
    """Return the steps of a log's rows, in order; rows without a step are of the one named last.

    If no row names a step, each is one.

    Raises:
        RecordError: If a step is told twice, or steps go backwards.
    """
    rows = list(rows)
    if all(row.step is None for row in rows):
        _check_one_rank(rows)
        return [_step_of(row, step=at) for at, row in enumerate(rows)]
    steps: dict[int, LoggedStep] = {}
    late: list[LogRow] = []
    last: LoggedStep | None = None
    for row in rows:
        if row.step is not None and row.values and row.values.keys() <= _OF_MANY_RANKS:
            late.append(row)
            continue
        number = row.step
        if number is None:
            if last is None:
                raise RecordError(
                    f"{row.where}: {', '.join(row.values)} before any line that names a step; let the line name it, "
                    "or let the line with the step come first"
                )
            number = last.step
        step = steps.get(number)
        if step is None:
            if last is not None and number < last.step:
                raise _two_runs(row, number=number, steps=steps)
            steps[number] = last = _step_of(row, step=number)
        else:
            last = step if last is None or step.step > last.step else last
            _add(step, row, steps=steps)
    for row in late:
        step = steps.get(row.step if row.step is not None else -1)
        if step is not None:
            _add_largest(step, row.values, where=row.where)
    return list(steps.values())


def _check_one_rank(rows: Sequence[LogRow]) -> None:
    """Check that rows that name no step are of one rank: those of several would be taken for more steps."""
    for row in rows[1:]:
        if row.rank != rows[0].rank:
            raise RecordError(
                f"ranks {rows[0].rank or '?'} and {row.rank or '?'} both log, at {rows[0].where} and at {row.where}; "
                f"{_ONE_RANK}"
            )


def _step_of(row: LogRow, *, step: int) -> LoggedStep:
    places = dict.fromkeys(("step", *row.values), row.where)
    return LoggedStep(step=step, values=dict(row.values), places=places, rank=row.rank, clock=row.clock)


def _add(step: LoggedStep, row: LogRow, *, steps: Mapping[int, LoggedStep]) -> None:
    if row.is_redrawn and _is_same(step.values, row.values):
        return  # a progress bar that shows the same again
    for name, value in row.values.items():
        if name in _OF_MANY_RANKS:
            _add_largest(step, {name: value}, where=row.where)
        elif name in step.values:
            raise _twice(step, row, name=name, steps=steps)
        else:
            step.values[name] = value
            step.places[name] = row.where
    step.clock = row.clock or step.clock


def _add_largest(step: LoggedStep, values: Mapping[str, float], *, where: str) -> None:
    for name, value in values.items():
        if name not in step.values or not value <= step.values[name]:
            step.values[name] = value
            step.places[name] = where


def _is_same(old: Mapping[str, float], new: Mapping[str, float]) -> bool:
    return all(name in old and (old[name] == value or value != value) for name, value in new.items())  # noqa: PLR0124 (NaN)


def _twice(step: LoggedStep, row: LogRow, *, name: str, steps: Mapping[int, LoggedStep]) -> RecordError:
    subject = f"step {step.step} is logged twice, at {step.places[name]} and at {row.where}"
    if step.rank != row.rank:
        return RecordError(f"{subject}: by rank {step.rank or '?'} and by rank {row.rank or '?'}; {_ONE_RANK}")
    if _file_of(step.places[name]) != _file_of(row.where):
        return RecordError(f"{subject}: two files tell the same steps, of two ranks or of two runs; {_ONE_RANK}")
    if step.step != list(steps)[-1]:
        return _two_runs(row, number=step.step, steps=steps)
    how = "with the same numbers" if step.values[name] == row.values[name] else f"with another {name}"
    return RecordError(
        f"{subject}, {how}: several ranks or two loggers write into one file; {_ONE_RANK}, and a logger that writes "
        "each line once"
    )


def _two_runs(row: LogRow, *, number: int, steps: Mapping[int, LoggedStep]) -> RecordError:
    in_order = list(steps.values())
    first, last = in_order[0], in_order[-1]
    return RecordError(
        f"{row.where}: step {number} after step {last.step}: two runs in one log, the first from "
        f"{first.where} to {last.where}, the next from {row.where}; give each run a file of its own"
    )


def _file_of(where: str) -> str:
    return where.rpartition(":")[0]
