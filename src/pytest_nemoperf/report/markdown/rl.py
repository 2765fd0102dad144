"""Tables of reinforcement learning, with the columns and headings of NeMo RL's performance page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

from pytest_nemoperf.measure.measurement import median_phases
from pytest_nemoperf.recipes.recipe import Plan, Precision
from pytest_nemoperf.records.metrics import MEAN_RESPONSE_LEN, STEP_TIME_SEC, TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.records.step import RL_PHASES
from pytest_nemoperf.report.phases import rank_groups
from pytest_nemoperf.report.tables import (
    NOT_APPLICABLE,
    Planned,
    figure_cell,
    model_cells,
    page_number,
    plan_cells,
    table_lines,
    titled_table,
)
from pytest_nemoperf.results.cases import SessionResults

_BACKENDS: Mapping[str, str] = MappingProxyType({"torch": "PyTorch", "megatron": "Megatron"})
_BEFORE_LENGTH: Mapping[str, Callable[[Plan], object]] = MappingProxyType(
    {
        "Training Backend": lambda plan: _BACKENDS.get(plan.framework, plan.framework),
        "T-Max Sequence Length": lambda plan: plan.seq_len,
    }
)
_AFTER_LENGTH: Mapping[str, Callable[[Plan], object]] = MappingProxyType(
    {
        "#-GPUs": lambda plan: plan.layout.total_gpus,
        "G-GBS": lambda plan: plan.rl.num_samples if plan.rl is not None else NOT_APPLICABLE,
        "T-GBS": lambda plan: plan.global_batch_size,
        "G-TP": lambda plan: _generation(plan, "tp"),
        "G-PP": lambda plan: _generation(plan, "pp"),
        "G-DP": lambda plan: _generation(plan, "dp"),
        "T-TP": lambda plan: plan.layout.tp,
        "T-CP": lambda plan: plan.layout.cp,
        "T-EP": lambda plan: plan.layout.ep,
        "T-PP": lambda plan: plan.layout.pp,
        "T-VPP": lambda plan: plan.layout.vp if plan.layout.vp > 1 else NOT_APPLICABLE,
        "T-DP": lambda plan: plan.layout.dp,
    }
)
_PINNED = "Lengths of responses are pinned (the same in every step, whatever is generated)"


def rl_sections(rows: Sequence[Planned], *, results: SessionResults) -> list[str]:
    """Return a section for each algorithm and policy, with a table for each precision and kind of lengths."""
    lines: list[str] = []
    ordered = sorted(rows, key=lambda row: (_section_key(row), _table_key(row)))
    for (algorithm, staleness, dataset), section in groupby(ordered, key=_section_key):
        policy = f"{staleness}-step off" if staleness else "on-policy"
        lines += [f"### {algorithm.upper()} Performance {policy}. Dataset: {dataset}", ""]
        for _, table in groupby(section, key=_table_key):
            lines += _table(list(table), results=results)
    return lines


def _section_key(row: Planned) -> tuple[str, int, str]:
    plan, _ = row
    staleness = 0
    dataset = ""
    if plan.rl is not None:
        staleness = plan.rl.max_staleness
        dataset = plan.rl.dataset
    if plan.framework == "torch":
        dataset = "sums of two numbers, made from a seed"
    return plan.workload, staleness, dataset or f"as framework {plan.framework} has it"


def _table_key(row: Planned) -> tuple[str, bool]:
    plan, _ = row
    return plan.precision, plan.rl is not None and plan.rl.has_pinned_lengths


def _table(rows: Sequence[Planned], *, results: SessionResults) -> list[str]:
    precision, is_pinned = _table_key(rows[0])
    names = model_cells(rows, columns={**_BEFORE_LENGTH, **_AFTER_LENGTH}, results=results)
    table = []
    for name, (plan, case) in zip(names, rows, strict=True):
        cells = {"Model": name}
        cells |= plan_cells(plan, columns=_BEFORE_LENGTH)
        cells["G-Average Seq len"] = figure_cell(case, metric=MEAN_RESPONSE_LEN)
        cells |= plan_cells(plan, columns=_AFTER_LENGTH)
        cells["Tokens / sec / GPU"] = figure_cell(case, metric=TOKENS_PER_SEC_PER_GPU)
        cells["Total Step time(s)"] = figure_cell(case, metric=STEP_TIME_SEC)
        table.append(cells)
    generated = precision if precision == Precision.FP32 else Precision.BF16
    title = f"System: {results.system_title}. Precision: Training {precision.upper()}, Generation {generated.upper()}."
    note = f"{_PINNED}. " if is_pinned else ""
    return [
        *titled_table(title, rows=table, results=results),
        f"{note}Tokens are those of prompts and responses, over the whole step and all GPUs.",
        "",
        *_phase_table(rows, names=names),
    ]


def _phase_table(rows: Sequence[Planned], *, names: Sequence[str]) -> list[str]:
    """Return a table of times by phase, apart from the first one, which has exactly the columns of NeMo RL's page."""
    medians: list[tuple[list[str], dict[str, float]]] = []
    known: set[str] = set()
    for name, (plan, case) in zip(names, rows, strict=True):
        runs = case.measurement.runs
        for group in (None, *rank_groups(runs)):
            seconds = median_phases(runs, group=group)
            known.update(seconds)
            medians.append(([name, plan.layout.label, group or "training"], seconds))
    phases = [name for name in RL_PHASES if name in known]
    if not phases:
        return []
    cells = []
    for row, seconds in medians:
        for phase in phases:
            row.append(page_number(seconds.get(phase)))
        cells.append(row)
    return [
        "Seconds of a step by phase, on the slowest rank of those that train, and of those that only generate",
        "(medians, which need not add up to the median step):",
        "",
        *table_lines(["Model", "Layout", "Ranks", *phases], rows=cells),
        "",
    ]


def _generation(plan: Plan, axis: str) -> object:
    generation = plan.layout.generation
    return NOT_APPLICABLE if generation is None else getattr(generation, axis)
