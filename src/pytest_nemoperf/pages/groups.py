"""Rows of a page grouped into tables, with their titles: one table for each system and precision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Final

from pytest_nemoperf.errors import RecipeError
from pytest_nemoperf.pages.selection import Section, Selection, system_order
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.report.escape import markdown_cell
from pytest_nemoperf.results.row import RolloutColumns, Row

_DATASETS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "OpenMathInstruct-2": "https://huggingface.co/datasets/nvidia/OpenMathInstruct-2",
        "DAPO-Math-17k": "https://huggingface.co/datasets/BytedTsinghua-SIA/DAPO-Math-17k",
    }
)
"""Addresses of data sets that pages link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of a page.

    Attributes:
        system: Name of its system.
        title: Text of its heading.
        rows: Its rows in their order; none for a table that waits for results.
    """

    system: str
    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSection:
    """Tables below one heading.

    Attributes:
        title: Text of the heading; empty for none.
        tables: The tables.
        section: The section of reinforcement learning that it is; None for other workloads.
    """

    title: str
    tables: tuple[Table, ...]
    section: Section | None = None


def grouped(rows: Iterable[Row], *, selection: Selection, has_empty: bool) -> list[TableSection]:
    """Return the tables of rows, one for each system and precision, in sections for reinforcement learning.

    Args:
        rows: Rows that the selection has chosen.
        selection: Systems, precisions and sections in their order.
        has_empty: Systems, precisions and sections without rows have empty tables.
    """
    chosen = list(rows)
    if not selection.is_rl:
        return [TableSection(title="", tables=tuple(_tables(chosen, selection=selection, has_empty=has_empty)))]
    found: dict[Section, list[Row]] = {}
    for row in sorted(chosen, key=_section_order):
        found.setdefault(_section(row), []).append(row)
    order: dict[Section, None] = {}
    for wanted in selection.sections:
        matching = [each for each in found if wanted.covers(each)]
        if not matching and has_empty:
            matching = [wanted]
        order |= dict.fromkeys(matching)
    order |= dict.fromkeys(found)
    sections = []
    for section in order:
        tables = _tables(found.get(section, []), selection=selection, has_empty=has_empty)
        title = _section_title(section, has_rows=section in found)
        sections.append(TableSection(title=title, tables=tuple(tables), section=section))
    return sections


def _tables(rows: Sequence[Row], *, selection: Selection, has_empty: bool) -> list[Table]:
    tables = []
    is_rl = selection.is_rl
    for system in system_order(selection, rows):
        own = sorted([row for row in rows if row.system == system], key=_table_order)
        present = set()
        made = []
        for key, group in groupby(own, key=_table_key):
            precision, generation = key
            present.add(precision)
            made.append((precision, generation, tuple(group)))
        if has_empty:
            for precision in selection.precisions:
                if not any(name.startswith(precision) or name.endswith(precision) for name in present):
                    made.append((precision, precision, ()))  # FP8-CS and MXFP8 are FP8 too
        made.sort(key=lambda each: _precision_rank(each[0], selection=selection))
        for precision, generation, group_rows in made:
            title = _table_title(system, precision=precision, generation=generation if is_rl else None)
            tables.append(Table(system=system, title=title, rows=group_rows))
    return tables


def _precision_rank(precision: str, *, selection: Selection) -> tuple[int, str]:
    if precision in selection.precisions:
        return selection.precisions.index(precision), precision
    return len(selection.precisions), precision


def _table_key(row: Row) -> tuple[str, str]:
    generation = row.rollouts.precision.upper() if row.rollouts is not None else ""
    return row.precision.upper(), generation


def _table_order(row: Row) -> tuple[object, ...]:
    key = (row.gpus or 0, row.seq_len or 0, row.global_batch_size or 0)
    return (*_table_key(row), row.model.lower(), *key, row.origin.kind.value, row.case)


def _table_title(system: str, *, precision: str, generation: str | None) -> str:
    shown = markdown_cell(precision) or "not printed"
    if generation is None:
        return f"System: {system_title(system)}. Precision: {shown}"
    generated = markdown_cell(generation) or "not printed"
    return f"System: {system_title(system)}. Precision: Training {shown}, Generation {generated}."


def system_title(name: str) -> str:
    """Return a system as pages print it, e.g. ``DGX-H100``; the name of one that the catalog lacks."""
    try:
        return find_system(name).title
    except RecipeError:
        return markdown_cell(name)


def _section(row: Row) -> Section:
    rollouts = _rollouts(row)
    return Section(algorithm=row.workload, staleness=rollouts.max_staleness, dataset=rollouts.dataset)


def _section_order(row: Row) -> tuple[str, int, str]:
    rollouts = _rollouts(row)
    return row.workload, rollouts.max_staleness, rollouts.dataset


def _rollouts(row: Row) -> RolloutColumns:
    if row.rollouts is None:
        raise ValueError(f"{row.case}: a row of workload {row.workload!r} has no columns of generation")
    return row.rollouts


def _section_title(section: Section, *, has_rows: bool) -> str:
    policy = f"{section.staleness}-step off" if section.staleness else "on-policy"
    title = f"{markdown_cell(section.algorithm.upper())} Performance {policy}"
    if not section.dataset:
        return f"{title}. Dataset: not stated" if has_rows else title
    name = markdown_cell(section.dataset)
    url = _DATASETS.get(section.dataset)
    return f"{title}. Dataset: [{name}]({url})" if url else f"{title}. Dataset: {name}"
