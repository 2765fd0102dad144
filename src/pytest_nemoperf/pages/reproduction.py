"""Folded details below a table: everything that reproduces its rows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from pytest_nemoperf.errors import RecipeError, count_text
from pytest_nemoperf.published.recipes import unpriced_recipe_of
from pytest_nemoperf.published.row import PublishedRow
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.metrics import (
    MEAN_PROMPT_LEN,
    METRICS,
    MFU_PCT,
    PEAK_MEMORY_GIB,
    STEP_TIME_SEC,
    TFLOPS_PER_SEC_PER_GPU,
    TOKENS_PER_SEC_PER_GPU,
    TRAINING_MFU_PCT,
    TRAINING_TFLOPS_PER_SEC_PER_GPU,
    Metric,
    format_number,
)
from pytest_nemoperf.report.cells import percent
from pytest_nemoperf.report.escape import code, markdown_cell
from pytest_nemoperf.results.row import Row, RowKind

SUMMARY: Final = "Reproduce these rows: recipe, command, commit, container, date, runs and spread"
"""Line that is seen while the details are folded."""
_SPREADS: Final = (TOKENS_PER_SEC_PER_GPU, STEP_TIME_SEC)
_FIGURES: Final = (STEP_TIME_SEC, MEAN_PROMPT_LEN, PEAK_MEMORY_GIB)
_FORMATS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "BF16": "bf16",
        "FP8": "fp8",
        "FP8-CS": "fp8",
        "FP8-MX": "fp8",
        "MXFP8": "fp8",
        "NVFP4": "nvfp4",
    }
)
"""Number formats of precisions as pages print them: keys of a system's peaks."""
_KINDS: Final[Mapping[RowKind, str]] = MappingProxyType(
    {RowKind.PUBLISHED: "published: one value, no spread", RowKind.DRAFT: "draft, never released: one value, no spread"}
)


def details_lines(rows: Sequence[Row], *, printed: Mapping[str, PublishedRow]) -> list[str]:
    """Return a folded block that says for each row of a table how to get it again; none without rows.

    Args:
        rows: Rows of the table.
        printed: Published rows as their pages print them, by id.
    """
    items = []
    for row in rows:
        facts = _published_facts(row, printed=printed) if row.origin.kind is not RowKind.MEASURED else _facts(row)
        items.append((_row_title(row), list(facts)))
    return folded(SUMMARY, items=items)


def folded(summary: str, *, items: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Return a folded block with a numbered list, each item with facts below it; none without items."""
    if not items:
        return []
    lines = ["<details>", f"<summary>{summary}</summary>", ""]
    for number, (title, facts) in enumerate(items, start=1):
        lines.append(f"{number}. {title}")
        for fact in facts:
            lines.append(f"    - {fact}")  # four: the content of item 10 begins there
    return [*lines, "", "</details>", ""]


def _row_title(row: Row) -> str:
    title = code(row.case)
    if row.model:
        title = f"{markdown_cell(row.model)}: {title}"
    if row.framework:
        title += f", framework {code(row.framework)}"
    return title or "no case"


def _facts(row: Row) -> Iterator[str]:
    origin = row.origin
    if row.settings:
        yield f"Recipe: {code(settings_text(row.settings))}"
    if origin.command:
        yield f"Command: {code(origin.command)}"
    yield "; ".join(_where_and_when(row))
    yield "; ".join(_runs(row))
    yield _speed(row)
    if origin.versions:
        versions = [f"{name} {version}" for name, version in origin.versions.items()]
        yield f"Versions and settings: {code(', '.join(versions))}"
    if origin.note:
        yield f"Note: {markdown_cell(origin.note)}"


def _published_facts(row: Row, *, printed: Mapping[str, PublishedRow]) -> Iterator[str]:
    """Yield the command for a published row, or the reason for none; the table names its page."""
    published = printed.get(row.case)
    if published is not None:
        problem = unpriced_recipe_of(published).reason
        if problem:
            yield f"No recipe: {markdown_cell(problem)}"
        else:
            yield f"Command: {code(_published_command(published))}"
    yield "; ".join(_runs(row))
    yield _speed(row)
    if row.origin.note:
        yield f"Note: {markdown_cell(row.origin.note)}"


def _published_command(published: PublishedRow) -> str:
    words = ["pytest", "-m", "perf", f"--system={published.system}", "--perf-against=published"]
    return shlex.join([*words, "perf_tests/published", "-k", published.id])


def settings_text(settings: Mapping[str, Any]) -> str:
    """Return the settings of a row in one line: the model's name, degrees that are not 1, all else that is set."""
    shown: dict[str, Any] = {}
    for name, value in settings.items():
        if name == "model" and isinstance(value, Mapping):
            shown[name] = value.get("name", "")
        elif name == "layout" and isinstance(value, Mapping):
            shown[name] = {axis: degree for axis, degree in value.items() if degree not in (1, None, False)}
        elif value not in ("", None, False, [], {}):
            shown[name] = value
    return json.dumps(shown, ensure_ascii=False, default=str)


def _where_and_when(row: Row) -> Iterator[str]:
    origin = row.origin
    yield f"Commit {code(origin.commit) or 'unknown'}"
    yield f"container {code(origin.container) or 'none or unknown'}"
    yield f"date {markdown_cell(origin.date) or 'unknown'}"
    if origin.device:
        yield f"device {markdown_cell(origin.device)}"
    if origin.source:
        yield f"from {code(origin.source)}"


def _runs(row: Row) -> Iterator[str]:
    kind = _KINDS.get(row.origin.kind)
    if kind is not None:
        yield kind.capitalize()
    else:
        yield count_text(row.num_runs, "run").capitalize()
        for metric in _SPREADS:
            spread = row.spread_pct(metric.name)
            if spread is not None:
                yield f"spread of {metric.label} {percent(spread)}"
    for metric in _FIGURES:
        value = row.value(metric.name)
        if value is not None:
            yield f"{metric.label} {metric.format(value)}"


def _speed(row: Row) -> str:
    """Return both figures that pages call MFU, and the convention that FLOPs are counted under."""
    speed, share, is_computed = flops_speed(row)
    words = "Training MFU " if row.rollouts is not None else "Model FLOPs "
    parts = [
        f"{words}as FLOP/s per GPU: {_figure(speed, TFLOPS_PER_SEC_PER_GPU)}",
        f"as a share of the dense peak: {_figure(share, MFU_PCT)}{' (computed from the former)' * is_computed}",
        f"FLOPs convention {code(row.flops_convention) or 'not stated'}",
    ]
    if row.flops_per_token:
        parts.append(f"{row.flops_per_token:.6g} FLOPs per token")
    return "; ".join(parts)


def flops_speed(row: Row) -> tuple[float | None, float | None, bool]:
    """Return model TFLOP/s of a GPU, percent of its dense peak, and whether the latter is computed from the former.

    It is computed for published rows alone, by the peak of their system in their precision: measured ones hold it.
    """
    if row.rollouts is not None:
        return row.value(TRAINING_TFLOPS_PER_SEC_PER_GPU.name), row.value(TRAINING_MFU_PCT.name), False
    speed = row.value(TFLOPS_PER_SEC_PER_GPU.name)
    share = row.value(MFU_PCT.name)
    if share is not None or speed is None or row.origin.kind is RowKind.MEASURED:
        return speed, share, False
    peak = _peak_tflops(row)
    if peak is None:
        return speed, None, False
    return speed, 100 * speed / peak, True


def _peak_tflops(row: Row) -> float | None:
    number_format = _FORMATS.get(row.precision.upper())
    if number_format is None:
        return None
    try:
        return find_system(row.system).peak_tflops.get(number_format)
    except RecipeError:
        return None


def _figure(value: float | None, metric: Metric) -> str:
    if value is None:
        return "n/a"
    if metric.unit == "%":
        return percent(value)
    return f"{format_number(value).replace(',', '')} {METRICS[metric.name].unit}"
