"""Tables of reinforcement learning, with the columns and headings of NeMo RL's performance page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from pytest_nemoperf.measure.figures import phases_over_runs
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.records.step import RL_PHASES
from pytest_nemoperf.report.escape import markdown_text
from pytest_nemoperf.report.markdown.row_tables import rl_names, rl_table
from pytest_nemoperf.report.phases import rank_groups
from pytest_nemoperf.report.tables import marked, page_number, table_lines
from pytest_nemoperf.results.row import RolloutColumns, Row
from pytest_nemoperf.results.rows import layout_label

_PINNED = "Lengths of responses are pinned (the same in every step, whatever is generated)"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutCase:
    """Case of reinforcement learning.

    Attributes:
        row: Its row.
        rollouts: Its columns of generation.
        runs: Its runs, for the times of phases.
    """

    row: Row
    rollouts: RolloutColumns
    runs: Sequence[Run]


def rl_sections(cases: Sequence[RolloutCase], *, system_title: str, mark: str) -> list[str]:
    """Return a section for each algorithm and policy, with a table for each precision and kind of lengths.

    Args:
        cases: Cases of one system, in their order.
        system_title: Title of the system.
        mark: Mark of headings and rows; empty for none.
    """
    lines: list[str] = []
    ordered = sorted(cases, key=lambda case: (_section_key(case), _table_key(case)))
    for (algorithm, staleness, dataset), section in groupby(ordered, key=_section_key):
        policy = f"{staleness}-step off" if staleness else "on-policy"
        heading = f"{algorithm.upper()} Performance {policy}. Dataset: {dataset}"
        lines += [f"### {markdown_text(heading)}", ""]
        for _, table in groupby(section, key=_table_key):
            lines += _table(list(table), system_title=system_title, mark=mark)
    return lines


def _section_key(case: RolloutCase) -> tuple[str, int, str]:
    return case.row.workload, case.rollouts.max_staleness, case.rollouts.dataset


def _table_key(case: RolloutCase) -> tuple[str, bool]:
    return case.row.precision, case.rollouts.is_pinned


def _table(cases: Sequence[RolloutCase], *, system_title: str, mark: str) -> list[str]:
    rows = [case.row for case in cases]
    columns = cases[0].rollouts
    title = f"System: {system_title}. Precision: Training {rows[0].precision}, Generation {columns.precision}."
    note = f"{_PINNED}. " if columns.is_pinned else ""
    return [
        f"#### {markdown_text(marked(title, mark=mark))}",
        "",
        *rl_table(rows, mark=mark),
        "",
        f"{note}Tokens are those of prompts and responses, over the whole step and all GPUs.",
        "",
        *_phase_table(cases, names=rl_names(rows, mark=mark)),
    ]


def _phase_table(cases: Sequence[RolloutCase], *, names: Sequence[str]) -> list[str]:
    """Return a table of times by phase, apart from the first one, which has exactly the columns of NeMo RL's page."""
    by_ranks: list[tuple[list[str], dict[str, float]]] = []
    known: set[str] = set()
    for name, case in zip(names, cases, strict=True):
        for group in (None, *rank_groups(case.runs)):
            seconds = phases_over_runs(case.runs, group=group)
            known.update(seconds)
            by_ranks.append(([name, layout_label(case.row), group or "training"], seconds))
    phases = [name for name in RL_PHASES if name in known]
    if not phases:
        return []
    cells = []
    for row, seconds in by_ranks:
        for phase in phases:
            row.append(page_number(seconds.get(phase)))
        cells.append(row)
    return [
        "Seconds of a step by phase, on the slowest rank of those that train, and of those that only generate",
        "(each a median over the steps of a run, so that together they are the step only nearly):",
        "",
        *table_lines(["Model", "Layout", "Ranks", *phases], rows=cells),
        "",
    ]
