"""Reader of ``steps.jsonl``, the record format of all frameworks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from pytest_nemoperf.errors import RecordError, did_you_mean, shown
from pytest_nemoperf.json_codec import from_data, parse_json, read_file
from pytest_nemoperf.records.figures import MAX_FIGURE
from pytest_nemoperf.records.step import StepRecord

_KEYS = frozenset(item.name for item in fields(StepRecord))


def read_step_records(path: Path, *, total_steps: int | None) -> tuple[StepRecord, ...]:
    """Return the records of a file in order; fewer than planned is not an error here.

    Args:
        path: File with one StepRecord as a JSON object per line.
        total_steps: Steps of the plan, warm-up included; None for any number, from any step on.

    Raises:
        RecordError: If a line is torn, no record, impossible, out of order or beyond the plan; names file and line.
    """
    records: list[StepRecord] = []
    text = read_file(path).decode(errors="replace")
    lines = text.removesuffix("\n").split("\n") if text else []
    for number, line in enumerate(lines, start=1):
        subject = f"{path}:{number}"
        record = _read_line(line, subject=subject, is_whole=number < len(lines) or text.endswith("\n"))
        if records and record.step <= records[-1].step:
            raise RecordError(
                f"{subject}: step {record.step} after step {records[-1].step}; "
                "write each step once, in order, from rank 0 only"
            )
        if total_steps is not None and not records and record.step == 1:
            raise RecordError(f"{subject}: the first step is 1; count steps from 0")
        if total_steps is not None and record.step >= total_steps:
            raise RecordError(
                f"{subject}: step {record.step}, but the plan has {total_steps} steps, counted from 0; "
                "run as many as the plan's warmup_steps + steps"
            )
        records.append(record)
    return tuple(records)


def _read_line(line: str, *, subject: str, is_whole: bool) -> StepRecord:
    try:
        data = parse_json(line)
    except ValueError as error:
        if not is_whole:
            raise RecordError(
                f"{subject}: half a line, {line[-40:]!r} without a newline at the end; "
                "write each record whole and flush it before the process ends"
            ) from None
        raise RecordError(f"{subject}: {error}; write one JSON object a line") from None
    if not isinstance(data, dict):
        raise RecordError(f"{subject}: {shown(line.strip())} is no JSON object; write one StepRecord a line")
    for key in data:
        if key not in _KEYS:
            raise RecordError(f"{subject}: unknown key {key!r}; {did_you_mean(key, _KEYS)}")
    for name in _oversized(data):
        raise RecordError(f"{subject}: {name} is beyond {MAX_FIGURE:g}; no step takes, counts or computes so much")
    try:
        return from_data(StepRecord, data, subject=subject)
    except RecordError as error:
        if "$.rollout" in str(error):
            raise RecordError(f"{error}; docs/frameworks.md lists the keys of a rollout") from None
        raise


def _oversized(node: object, *, name: str = "") -> Iterator[str]:
    """Yield the keys of finite numbers beyond MAX_FIGURE; numbers that are not finite are judged later."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _oversized(value, name=f"{name}.{key}".lstrip("."))
    elif isinstance(node, list):
        for value in node:
            yield from _oversized(value, name=name)
    elif isinstance(node, int | float) and MAX_FIGURE < abs(node) < math.inf:
        yield name
