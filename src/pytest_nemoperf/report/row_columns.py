"""Columns of rows as data: stable name, heading, and value; tables of every kind, filters and sorting share them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.errors import BaselineError, did_you_mean
from pytest_nemoperf.records.metrics import METRICS, Metric, format_number, format_time
from pytest_nemoperf.report.cells import percent
from pytest_nemoperf.results.row import Row, RowKind
from pytest_nemoperf.results.row_ratio import main_metric
from pytest_nemoperf.results.rows import layout_label

Value = str | int | float | None
"""Value of a column: text, a number, or None for one that is unknown or does not apply."""


_MIN_NAME_LENGTH: Final = 4  # of a repository that is clear without its owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of tables of rows.

    Attributes:
        name: Stable name in CSV, JSON and options; a figure's ends with its unit.
        heading: Heading in the terminal.
        value_of: Its value in a row.
        is_text: Set to the left, filtered by pattern, sorted by letters.
        short: Second name for options; empty for none.
        text_of: Value as tables print it; None for the value as it is.
    """

    name: str
    heading: str
    value_of: Callable[[Row], Value]
    is_text: bool = False
    short: str = ""
    text_of: Callable[[Row], str] | None = None

    def text(self, row: Row) -> str:
        """Return a row's cell of a table for people; empty for None."""
        if self.text_of is not None:
            return self.text_of(row)
        value = self.value_of(row)
        return "" if value is None else str(value)


def main_spread_pct(row: Row) -> float | None:
    """Return the spread over the runs of the metric that a row is compared by."""
    metric = main_metric(row)
    return None if metric is None else row.spread_pct(metric.name)


def _num_runs(row: Row) -> int | None:
    """Return the number of runs of a row that was measured; a page prints one value, and not of how many."""
    return row.num_runs if row.origin.kind is RowKind.MEASURED else None


def figure_text(row: Row, *, metric: Metric) -> str:
    """Return a row's figure as the terminal prints it; a published one with all its digits; empty for none."""
    value = row.value(metric.name)
    if value is None:
        return ""
    if row.origin.kind is not RowKind.MEASURED:
        return f"{value:,.12g} s" if metric.unit == "s" else f"{value:,.12g}"
    return format_time(value) if metric.unit == "s" else format_number(value, digits=metric.digits)


def find_column(name: str, *, subject: str) -> Column:
    """Return a column by its name or its second name.

    Args:
        name: Either of them.
        subject: Option that names it, for the message.

    Raises:
        BaselineError: If there is no such column.
    """
    column = COLUMNS.get(full_name(name))
    if column is not None:
        return column
    known = [*COLUMNS, *(column.short for column in COLUMNS.values() if column.short)]
    raise BaselineError(f"{subject}: unknown column {name!r}; {did_you_mean(name, known)}")


def full_name(name: str) -> str:
    """Return the name of the column that a second name stands for; other names as they are."""
    for column in COLUMNS.values():
        if column.short and column.short == name:
            return column.name
    return name


def _short_source(row: Row) -> str:
    """Return the origin of the figures in a word: ``measured``, or the repository or site of the page."""
    kind = row.origin.kind
    if kind is RowKind.MEASURED:
        return kind.value
    page = row.origin.source.rpartition("/")[2]
    if len(page) < _MIN_NAME_LENGTH:  # NVIDIA-NeMo/RL
        page = row.origin.source
    return f"{page} (draft)" if kind is RowKind.DRAFT else page


def _text(name: str, heading: str, value_of: Callable[[Row], Value], *, short: str = "") -> Column:
    return Column(name=name, heading=heading, value_of=value_of, is_text=True, short=short)


def _degree(name: str, heading: str, *, short: str = "") -> Column:
    return Column(name=name, heading=heading, value_of=lambda row: getattr(row, name), short=short)


def _rollout(name: str, heading: str, attribute: str, *, is_text: bool = False) -> Column:
    def value_of(row: Row) -> Value:
        value: Value = None if row.rollouts is None else getattr(row.rollouts, attribute)
        return value

    return Column(name=name, heading=heading, value_of=value_of, is_text=is_text)


def _metric(metric: Metric) -> Column:
    """Return the column of a metric; its heading has the unit, unless the label or each value has it."""
    heading = metric.column or metric.label
    if not metric.column and metric.unit not in ("", "s", metric.label):
        heading += f" ({metric.unit})"
    return Column(
        name=metric.name,
        heading=heading,
        value_of=lambda row: row.value(metric.name),
        short=_SHORT_METRICS.get(metric.name, ""),
        text_of=partial(figure_text, metric=metric),
    )


_SHORT_METRICS: Final = {
    "tokens_per_sec_per_gpu": "tokens",
    "tflops_per_sec_per_gpu": "tflops",
    "step_time_sec": "step_time",
    "peak_memory_gib": "memory",
    "mfu_pct": "mfu",
    "time_per_call_sec": "time_per_call",
}

_COLUMNS: Final = (
    _text("case", "case", lambda row: row.case),
    _text("system", "system", lambda row: row.system),
    _text("workload", "workload", lambda row: row.workload),
    _text("framework", "framework", lambda row: row.framework),
    _text("model", "model", lambda row: row.model),
    _text("precision", "precision", lambda row: row.precision),
    _degree("gpus", "#-GPUs"),
    _degree("global_batch_size", "GBS", short="gbs"),
    _degree("micro_batch_size", "MBS", short="mbs"),
    _degree("seq_len", "seq len", short="seq"),
    _degree("fsdp", "FSDP"),
    _degree("dp", "DP"),
    _degree("tp", "TP"),
    _degree("pp", "PP"),
    _degree("cp", "CP"),
    _degree("vp", "VP"),
    _degree("ep", "EP"),
    _degree("grad_accum_steps", "GA", short="ga"),
    _text("layout", "layout", layout_label),
    _rollout("max_staleness_steps", "steps off", "max_staleness"),
    _rollout("backend", "backend", "backend", is_text=True),
    _rollout("dataset", "dataset", "dataset", is_text=True),
    _rollout("num_samples", "G-GBS", "num_samples"),
    _rollout("generation_tp", "G-TP", "tp"),
    _rollout("generation_pp", "G-PP", "pp"),
    _rollout("generation_dp", "G-DP", "dp"),
    _rollout("generation_precision", "G-precision", "precision", is_text=True),
    *map(_metric, METRICS.values()),
    Column(
        name="spread_pct",
        heading="spread",
        value_of=main_spread_pct,
        short="spread",
        text_of=lambda row: percent(main_spread_pct(row)),
    ),
    Column(name="num_runs", heading="runs", value_of=_num_runs, short="runs"),
    _text("flops_convention", "convention", lambda row: row.flops_convention),
    Column(name="flops_per_token", heading="FLOPs/token", value_of=lambda row: row.flops_per_token),
    _text("kind", "kind", lambda row: row.origin.kind.value),
    _text("release", "release", lambda row: row.origin.release),
    _text("date", "date", lambda row: row.origin.date),
    _text("of", "of", lambda row: row.origin.release or row.origin.date[:10]),
    _text("from", "from", _short_source),
    _text("commit", "commit", lambda row: row.origin.commit),
    _text("device", "device", lambda row: row.origin.device),
    _text("container", "container", lambda row: row.origin.container),
    _text("command", "command", lambda row: row.origin.command),
    _text("source", "source", lambda row: row.origin.source),
    _text("url", "url", lambda row: row.origin.url),
    _text("note", "note", lambda row: row.origin.note),
)

COLUMNS: Final[Mapping[str, Column]] = MappingProxyType({column.name: column for column in _COLUMNS})
"""Every column by name, in the order of CSV."""

MEASURED_COLUMNS: Final = (
    "case",
    "tokens_per_sec_per_gpu",
    "tflops_per_sec_per_gpu",
    "step_time_sec",
    "time_per_call_sec",
    "call_tflops_per_sec",
    "call_gib_per_sec",
    "bus_gib_per_sec",
    "spread_pct",
    "num_runs",
    "of",
    "from",
)
"""Columns of the terminal for measured rows; the case id has the settings."""

PUBLISHED_COLUMNS: Final = (
    "case",
    "model",
    "workload",
    "precision",
    "gpus",
    "global_batch_size",
    "micro_batch_size",
    "seq_len",
    "fsdp",
    "tp",
    "pp",
    "cp",
    "vp",
    "ep",
    "tokens_per_sec_per_gpu",
    "tflops_per_sec_per_gpu",
    "step_time_sec",
    "spread_pct",
    "num_runs",
    "of",
    "from",
)
"""Columns of the terminal for published rows and for tables of both: a published row's id has no settings."""


def default_columns(rows: Sequence[Row]) -> list[Column]:
    """Return the columns of the terminal for these rows; those that none has are left out."""
    kinds = {row.origin.kind for row in rows}
    names: Sequence[str] = PUBLISHED_COLUMNS if kinds - {RowKind.MEASURED} else MEASURED_COLUMNS
    columns = []
    for name in names:
        column = COLUMNS[name]
        if name == "num_runs" and RowKind.MEASURED not in kinds:  # published figures are one value each
            continue
        if any(column.value_of(row) not in (None, "") for row in rows):
            columns.append(column)
    return columns
