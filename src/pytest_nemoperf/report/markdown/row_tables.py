"""Tables of performance pages: rows under exactly the columns of the pages of Megatron-Core and of NeMo RL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.records.metrics import (
    IN_PROCESS_PAGE,
    MEAN_RESPONSE_LEN,
    STEP_TIME_SEC,
    TFLOPS_PER_SEC_PER_GPU,
    TOKENS_PER_SEC_PER_GPU,
    Metric,
)
from pytest_nemoperf.report.tables import NOT_APPLICABLE, marked, page_number, table_lines
from pytest_nemoperf.results.row import RolloutColumns, Row, RowKind

_MODEL: Final = "Model"
_PRETRAIN: Mapping[str, Callable[[Row], object]] = MappingProxyType(
    {
        "#-GPUs": lambda row: row.gpus,
        "GBS": lambda row: row.global_batch_size,
        "MBS": lambda row: row.micro_batch_size,
        "Sequence Length": lambda row: row.seq_len,
        "FSDP": lambda row: row.fsdp,
        "TP": lambda row: row.tp,
        "PP": lambda row: row.pp,
        "CP": lambda row: row.cp,
        "VP": lambda row: row.vp,
        "EP": lambda row: row.ep,
        "GA": lambda row: row.grad_accum_steps,
        "Tokens / sec / GPU": lambda row: _figure(row, TOKENS_PER_SEC_PER_GPU),
        "Model TFLOP / sec / GPU": lambda row: _figure(row, TFLOPS_PER_SEC_PER_GPU),
    }
)
_RL: Mapping[str, Callable[[Row], object]] = MappingProxyType(
    {
        "Training Backend": lambda row: _rollout(row, lambda columns: columns.backend),
        "T-Max Sequence Length": lambda row: row.seq_len,
        "G-Average Seq len": lambda row: _figure(row, MEAN_RESPONSE_LEN),
        "#-GPUs": lambda row: row.gpus,
        "G-GBS": lambda row: _rollout(row, lambda columns: columns.num_samples),
        "T-GBS": lambda row: row.global_batch_size,
        "G-TP": lambda row: _rollout(row, lambda columns: columns.tp),
        "G-PP": lambda row: _rollout(row, lambda columns: columns.pp),
        "G-DP": lambda row: _rollout(row, lambda columns: columns.dp),
        "T-TP": lambda row: row.tp,
        "T-CP": lambda row: row.cp,
        "T-EP": lambda row: row.ep,
        "T-PP": lambda row: row.pp,
        "T-VPP": lambda row: None if row.vp == 1 else row.vp,
        "T-DP": lambda row: row.dp,
        "Tokens / sec / GPU": lambda row: _figure(row, TOKENS_PER_SEC_PER_GPU),
        "Total Step time(s)": lambda row: _figure(row, STEP_TIME_SEC),
    }
)
_FIGURES: Final = frozenset(
    {"G-Average Seq len", "Tokens / sec / GPU", "Model TFLOP / sec / GPU", "Total Step time(s)"}
)
"""Columns that may differ between two runs of the same row."""


def pretrain_headings() -> list[str]:
    """Return the columns of the page of pre-training."""
    return [_MODEL, *_PRETRAIN]


def rl_headings() -> list[str]:
    """Return the columns of the page of reinforcement learning."""
    return [_MODEL, *_RL]


def pretrain_table(rows: Sequence[Row], *, mark: str = "") -> list[str]:
    """Return the lines of a table of pre-training or fine-tuning; head and rule only for no rows.

    Args:
        rows: Rows, in their order.
        mark: Text in brackets behind each model; empty for none.
    """
    return _table(rows, columns=_PRETRAIN, mark=mark)


def rl_table(rows: Sequence[Row], *, mark: str = "") -> list[str]:
    """Return the lines of a table of reinforcement learning; see pretrain_table."""
    return _table(rows, columns=_RL, mark=mark)


def rl_names(rows: Sequence[Row], *, mark: str = "") -> list[str]:
    """Return the first cell of each row of the table of reinforcement learning, for another table of the same rows."""
    return _names(rows, columns=_RL, mark=mark)


def call_table(rows: Sequence[Row], *, mark: str = "") -> list[str]:
    """Return the lines of a table of calls and loops, with the figures that any of them has; see pretrain_table."""
    metrics = [metric for metric in IN_PROCESS_PAGE if any(metric.name in row.values for row in rows)]
    cells = []
    for row in rows:
        figures = [page_number(row.value(metric.name)) for metric in metrics]
        cells.append([marked(row.case, mark=mark), *figures])
    return table_lines(["Case", *[metric.heading for metric in metrics]], rows=cells)


def _table(rows: Sequence[Row], *, columns: Mapping[str, Callable[[Row], object]], mark: str) -> list[str]:
    cells = []
    for name, row in zip(_names(rows, columns=columns, mark=mark), rows, strict=True):
        cells.append([name, *[_cell(value_of(row)) for value_of in columns.values()]])
    return table_lines([_MODEL, *columns], rows=cells)


def _names(rows: Sequence[Row], *, columns: Mapping[str, Callable[[Row], object]], mark: str) -> list[str]:
    """Return the first cell of each row: the model, with the case id if several rows have the same settings."""
    keys = []
    for row in rows:
        settings = [value_of(row) for heading, value_of in columns.items() if heading not in _FIGURES]
        keys.append((row.model, *settings))
    counts = Counter(keys)
    names = []
    for key, row in zip(keys, rows, strict=True):
        name = row.model or row.case
        if counts[key] > 1 and row.model:
            name += f" ({row.case})"
        names.append(marked(name, mark=mark))
    return names


def _cell(value: object) -> str:
    return NOT_APPLICABLE if value is None or value == "" else str(value)


def _figure(row: Row, metric: Metric) -> str:
    """Return a figure as pages round it; a published one with all the digits that its page prints."""
    value = row.value(metric.name)
    if value is None or row.origin.kind is RowKind.MEASURED:
        return page_number(value)
    return f"{value:.12g}"


def _rollout(row: Row, value_of: Callable[[RolloutColumns], object]) -> object:
    return None if row.rollouts is None else value_of(row.rollouts)
