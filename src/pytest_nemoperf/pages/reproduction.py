"""Folded details below a table: everything that reproduces its rows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, Final

from pytest_nemoperf.errors import RecipeError, count_text
from pytest_nemoperf.published.precisions import printed_precisions
from pytest_nemoperf.published.recipes import unpriced_recipe_of
from pytest_nemoperf.published.row import PublishedRow
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.metrics import (
    MEAN_PROMPT_LEN,
    MFU_PCT,
    PEAK_MEMORY_GIB,
    STEP_TIME_SEC,
    TFLOPS_PER_SEC_PER_GPU,
    TOKENS_PER_SEC_PER_GPU,
    TRAINING_MFU_PCT,
    TRAINING_TFLOPS_PER_SEC_PER_GPU,
)
from pytest_nemoperf.report.cells import percent
from pytest_nemoperf.report.escape import code, markdown_cell
from pytest_nemoperf.report.tables import page_number
from pytest_nemoperf.results.row import Row, RowKind

SUMMARY: Final = "Reproduce these rows: recipe, command, commit, container, date, runs and spread"
"""Line that is seen while the details are folded."""
_SPREADS: Final = (TOKENS_PER_SEC_PER_GPU, STEP_TIME_SEC)
_FIGURES: Final = (STEP_TIME_SEC, MEAN_PROMPT_LEN, PEAK_MEMORY_GIB)
_KINDS: Final[Mapping[RowKind, str]] = MappingProxyType(
    {RowKind.PUBLISHED: "published: one value, no spread", RowKind.DRAFT: "draft, never released: one value, no spread"}
)


def details_lines(rows: Sequence[Row], *, printed: Mapping[str, PublishedRow]) -> list[str]:
    """Return a folded block that says for each row of a table how to get it again; none without rows.

    Facts that all rows share are said once, above the list of the rows.

    Args:
        rows: Rows of the table.
        printed: Published rows as their pages print them, by id.
    """
    if not rows:
        return []
    problems = _problems(rows, printed=printed)
    facts = [_row_facts(row, problem=problems.get(row.case, "")) for row in rows]
    shared = _shared_parts(facts)
    head = _fact_lines(facts[0], shared=shared, is_shared=True)
    ids = [case for case, problem in problems.items() if not problem]
    if ids:
        head.append(_published_command(ids, system=rows[0].system))
    items = []
    for row, each in zip(rows, facts, strict=True):
        own = _fact_lines(each, shared=shared, is_shared=False)
        is_short = row.origin.kind is not RowKind.MEASURED
        items.append((_row_title(row), ["; ".join(own)] if is_short and own else own))
    return folded(SUMMARY, head=head, items=items)


def folded(summary: str, *, items: Sequence[tuple[str, Sequence[str]]], head: Sequence[str] = ()) -> list[str]:
    """Return a folded block: facts that hold for all items, then a numbered list, each item with its own facts.

    An item with one fact is one line.
    """
    lines = ["<details>", f"<summary>{summary}</summary>", ""]
    if head:
        lines += [*[f"- {fact}" for fact in head], ""]
    for number, (title, facts) in enumerate(items, start=1):
        if len(facts) == 1:
            lines.append(f"{number}. {title}: {facts[0]}")
            continue
        lines.append(f"{number}. {title}")
        for fact in facts:
            lines.append(f"    - {fact}")  # four: the content of item 10 begins there
    return [*lines, "", "</details>", ""]


def _shared_parts(facts: Sequence[Sequence[Sequence[str]]]) -> set[str]:
    """Return the parts of lines that every row of several has."""
    if len(facts) == 1:
        return set()
    shared = set(chain.from_iterable(facts[0]))
    for lines in facts[1:]:
        shared &= set(chain.from_iterable(lines))
    return shared


def _fact_lines(lines: Iterable[Sequence[str]], *, shared: Collection[str], is_shared: bool) -> list[str]:
    """Return lines of the shared parts, or of the others, each with a capital; none for a line without any."""
    texts = []
    for parts in lines:
        text = "; ".join([part for part in parts if (part in shared) == is_shared])
        if text:
            texts.append(f"{text[0].upper()}{text[1:]}")
    return texts


def _row_title(row: Row) -> str:
    title = code(row.case)
    if row.model:
        title = f"{markdown_cell(row.model)}: {title}"
    return title or "no case"


def _problems(rows: Sequence[Row], *, printed: Mapping[str, PublishedRow]) -> dict[str, str]:
    """Return the reason for no recipe by the id of each published row; empty for a row that has one."""
    problems = {}
    for row in rows:
        if row.origin.kind is not RowKind.MEASURED and row.case in printed:
            problems[row.case] = unpriced_recipe_of(printed[row.case]).reason
    return problems


def _row_facts(row: Row, *, problem: str) -> list[list[str]]:
    """Return the facts of a row: lines, each of parts."""
    facts = [[f"framework {code(row.framework)}"] if row.framework else []]
    if row.origin.kind is RowKind.MEASURED:
        facts += _where_facts(row)
    facts += [list(_runs(row)), list(_speed(row))]
    if problem:
        facts.append([f"no recipe: {markdown_cell(problem)}"])
    facts.append([code(f"{name} {version}") for name, version in row.origin.versions.items()])
    if row.origin.note:
        facts.append([f"note: {markdown_cell(row.origin.note)}"])
    return facts


def _where_facts(row: Row) -> Iterator[list[str]]:
    if row.settings:
        yield [f"recipe: {code(settings_text(row.settings))}"]
    if row.origin.command:
        yield [f"command: {code(row.origin.command)}"]
    yield list(_where_and_when(row))


def _published_command(ids: Sequence[str], *, system: str) -> str:
    """Return the command that measures published rows: one, or any of several."""
    words = ["pytest", "-m", "perf", f"--system={system}", "--perf-against=published", "perf_tests/published", "-k"]
    if len(ids) == 1:
        return f"Command: {code(shlex.join([*words, ids[0]]))}"
    return f"Command: {code(shlex.join([*words, 'ID']))}, with the id of a published row for ID, such as {code(ids[0])}"


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
    yield f"commit {code(origin.commit) or 'unknown'}"
    yield f"container {code(origin.container) or 'none or unknown'}"
    yield f"date {markdown_cell(origin.date) or 'unknown'}"
    if origin.device:
        yield f"device {markdown_cell(origin.device)}"
    if origin.source:
        yield f"from {code(origin.source)}"


def _runs(row: Row) -> Iterator[str]:
    kind = _KINDS.get(row.origin.kind)
    if kind is not None:
        yield kind
    else:
        yield count_text(row.num_runs, "run")
        for metric in _SPREADS:
            spread = row.spread_pct(metric.name)
            if spread is not None:
                yield f"spread of {metric.label} {percent(spread)}"
    for metric in _FIGURES:
        value = row.value(metric.name)
        if value is not None and not (metric is STEP_TIME_SEC and row.rollouts is not None):  # the table has it
            yield f"{metric.label} {metric.format(value)}"


def _speed(row: Row) -> Iterator[str]:
    """Yield both figures that pages call MFU, and the convention that FLOPs are counted under."""
    speed, share, is_computed = flops_speed(row)
    words = "training MFU" if row.rollouts is not None else "model FLOPs"
    if speed is None and share is None:
        yield f"{words} n/a, as FLOP/s per GPU and as a share of the dense peak"
    else:
        shown = "n/a" if speed is None else f"{_number(row, speed)} {TFLOPS_PER_SEC_PER_GPU.unit}"
        of_peak = "n/a" if share is None else percent(share)
        yield f"{words} {shown}, as a share of the dense peak {of_peak}{' (computed)' * is_computed}"
    yield f"FLOPs convention {code(row.flops_convention) or 'not stated'}"
    if row.flops_per_token:
        yield f"{row.flops_per_token:.6g} FLOPs per token"


def _number(row: Row, value: float) -> str:
    """Return a figure as the table above prints it."""
    return page_number(value) if row.origin.kind is RowKind.MEASURED else f"{value:.12g}"


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
    formats = {precision.number_format for precision in printed_precisions(row.precision)}
    if len(formats) != 1:
        return None
    try:
        return find_system(row.system).peak_tflops.get(formats.pop())
    except RecipeError:
        return None
