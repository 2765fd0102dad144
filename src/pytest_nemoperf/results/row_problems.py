"""Rows that can't be true: figures not finite, not positive, or contradicting each other; settings that break. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Final

from pytest_nemoperf.errors import NemoPerfError
from pytest_nemoperf.flops.count import FLOPS_REL_TOL
from pytest_nemoperf.json_codec import plain_mapping
from pytest_nemoperf.measure.stored_workload import check_workload
from pytest_nemoperf.published.row import PublishedRow, PublishedRows
from pytest_nemoperf.records.metrics import (
    FLOPS_PER_TFLOP,
    JUDGED,
    STEP_TIME_SEC,
    TFLOPS_PER_SEC_PER_GPU,
    TOKENS_PER_SEC_PER_GPU,
)
from pytest_nemoperf.results.row import Release, Row

_POSITIVE: Final = frozenset({*(metric.name for metric in JUDGED), STEP_TIME_SEC.name})


def release_problems(release: Release) -> Iterator[str]:
    """Yield a sentence for each row of a release that can't be true, and for each case that it holds twice."""
    counts = Counter([(row.system, row.case) for row in release.rows])
    for (system, case), number in counts.items():
        if number > 1:
            yield f"$.rows: case {case!r} of system {system!r} is there {number} times; a release holds it once"
    for index, row in enumerate(release.rows):
        yield from row_problems(row, place=f"$.rows[{index}]")


def published_rows_of(file: PublishedRows) -> Iterator[tuple[str, PublishedRow]]:
    """Yield every row of a file of published rows, those that are no baselines too, with its JSON path."""
    for index, row in enumerate(file.rows):
        yield f"$.rows[{index}]", row
    for index, excluded in enumerate(file.excluded):
        yield f"$.excluded[{index}].row", excluded.row


def printed_problems(row: PublishedRow, *, place: str) -> Iterator[str]:
    """Yield a sentence for each printed figure of a published row that is no positive number; see row_problems."""
    for name, text in row.printed.items():
        try:
            is_positive = 0.0 < float(text) < math.inf
        except ValueError:
            is_positive = False
        if not is_positive:
            yield f"{place}.printed.{name} is {text!r}; it must be a positive number, as text"


def row_problems(row: Row, *, place: str) -> Iterator[str]:
    """Yield a sentence for each impossible figure of a row, and for settings that no plan has.

    Args:
        row: The row.
        place: JSON path of the row.
    """
    for name, values in row.values.items():
        for index, value in enumerate(values):
            where = f"{place}.values.{name}[{index}]"
            if not math.isfinite(value):
                yield f"{where} is {value}; only finite figures can be compared"
            elif value <= 0.0 and name in _POSITIVE:
                yield f"{where} is {value:g}; only positive figures can be compared"
        if not values:
            yield f"{place}.values.{name} is empty; a figure needs at least one run"
    for name, value in row.judged.items():
        if not math.isfinite(value):
            yield f"{place}.judged.{name} is {value}; only finite figures can be compared"
        elif value <= 0.0 and name in _POSITIVE:
            yield f"{place}.judged.{name} is {value:g}; only positive figures can be compared"
    try:
        plain_mapping(row.settings, subject=f"{place}.settings")
        check_workload(row.settings, place=f"{place}.settings")
    except NemoPerfError as exc:
        yield str(exc)
    per_token = row.flops_per_token
    if per_token is not None and not (0.0 < per_token < math.inf):
        yield f"{place}.flops_per_token is {per_token:g}; only positive figures can be compared"
    elif per_token is not None:
        yield from _identity_problems(row, flops_per_token=per_token, place=place)


def _identity_problems(row: Row, *, flops_per_token: float, place: str) -> Iterator[str]:
    """Yield each run of which TFLOP/s is not FLOPs per token x tokens/s, the identity of every stored run."""
    all_tflops = row.values.get(TFLOPS_PER_SEC_PER_GPU.name, ())
    rates = row.values.get(TOKENS_PER_SEC_PER_GPU.name, ())
    if len(all_tflops) != len(rates):  # not every run has both, so that they can't be paired
        return
    for index, (tflops, rate) in enumerate(zip(all_tflops, rates, strict=True)):
        expected = flops_per_token * rate / FLOPS_PER_TFLOP
        if not math.isclose(tflops, expected, rel_tol=FLOPS_REL_TOL):
            yield (
                f"{place}.values.{TFLOPS_PER_SEC_PER_GPU.name}[{index}]={tflops:g} is not FLOPs per token x "
                f"tokens/sec/GPU = {flops_per_token:g} x {rate:g} = {expected:g}"
            )
