"""Tables for performance pages, with the pages' own columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

from pytest_nemoperf.comparison import VerdictKind
from pytest_nemoperf.metrics import (
    METRICS,
    STEP_TIME_SEC,
    TFLOPS_PER_SEC_PER_GPU,
    TIME_PER_CALL_SEC,
    TOKENS_PER_SEC_PER_GPU,
)
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.report.cells import INJECTION_MEANING, commit_text, earlier_text, injection_text
from pytest_nemoperf.report.rl_page import rl_sections
from pytest_nemoperf.report.stored import unasked_lines, unasked_title
from pytest_nemoperf.report.tables import (
    NOT_APPLICABLE,
    Planned,
    code,
    figure_cells,
    marked,
    model_cells,
    one_line,
    table_lines,
)
from pytest_nemoperf.results import CaseResult, SessionResults

_PLAN_COLUMNS: Mapping[str, Callable[[Plan], object]] = MappingProxyType(
    {
        "#-GPUs": lambda plan: plan.layout.total_gpus,
        "GBS": lambda plan: plan.global_batch_size,
        "MBS": lambda plan: plan.micro_batch_size,
        "Sequence Length": lambda plan: plan.seq_len,
        "FSDP": lambda plan: int(plan.layout.dp_shard > 1),
        "TP": lambda plan: plan.layout.tp,
        "PP": lambda plan: plan.layout.pp,
        "CP": lambda plan: plan.layout.cp,
        "VP": lambda plan: plan.layout.vp if plan.layout.pp > 1 else NOT_APPLICABLE,
        "EP": lambda plan: plan.layout.ep,
        "GA": lambda plan: plan.grad_accum_steps,
    }
)
_PLAN_METRICS = (TOKENS_PER_SEC_PER_GPU.name, TFLOPS_PER_SEC_PER_GPU.name)
_OTHER_METRICS = (TIME_PER_CALL_SEC.name, STEP_TIME_SEC.name, *_PLAN_METRICS)


def render_markdown(results: SessionResults) -> str:
    """Return the session as a page: tables by kind of work and precision, one for what had no plan, notes, origin.

    Invalid cases are named with their reason and never shown as figures.
    """
    lines: list[str] = []
    if results.inject_pct:
        lines += [f"> **WARNING. {injection_text(results.inject_pct)}.** {INJECTION_MEANING}", ""]
    sound = [case for case in results.cases if case.verdict.kind is not VerdictKind.INVALID]
    planned = sorted(((case.plan, case) for case in sound if case.plan is not None), key=_page_order)
    trained = [row for row in planned if row[0].rl is None]
    for framework, rows in groupby(trained, key=lambda row: row[0].framework):
        lines += [f"## Pre-Training Performance ({framework})", ""]
        for precision, group in groupby(rows, key=lambda row: row[0].precision):
            lines += _plan_section(list(group), precision=precision.upper(), results=results)
    lines += rl_sections([row for row in planned if row[0].rl is not None], results=results)
    unplanned = sorted((case for case in sound if case.plan is None), key=lambda case: case.verdict.case)
    if unplanned:
        lines += _other_section(unplanned, results=results)
    return "\n".join([*lines, *_notes(results), *_origin(results)]) + "\n"


def _page_order(row: Planned) -> tuple[object, ...]:
    plan, case = row
    kind = (plan.workload, plan.framework, plan.precision)
    return (*kind, plan.model.name, plan.layout.total_gpus, plan.seq_len, plan.global_batch_size, case.verdict.case)


def _plan_section(rows: Sequence[Planned], *, precision: str, results: SessionResults) -> list[str]:
    headings = ["Model", *_PLAN_COLUMNS, *(METRICS[name].heading for name in _PLAN_METRICS)]
    settings = [[str(value(plan)) for value in _PLAN_COLUMNS.values()] for plan, _ in rows]
    names = model_cells(rows, settings=settings, results=results)
    cells = [
        [name, *others, *figure_cells(case, metrics=_PLAN_METRICS)]
        for name, others, (_, case) in zip(names, settings, rows, strict=True)
    ]
    cases = [case for _, case in rows]
    title = f"System: {results.system_title}. Precision: {precision}"
    return [
        f"#### {marked(title, results=results)}",
        "",
        *table_lines(headings, rows=cells),
        "",
        *_conventions(cases),
    ]


def _other_section(cases: Sequence[CaseResult], *, results: SessionResults) -> list[str]:
    known = {name for case in cases for run in case.measurement.runs for name in run.metrics}
    metrics = [name for name in _OTHER_METRICS if name in known]
    rows = [[marked(case.verdict.case, results=results), *figure_cells(case, metrics=metrics)] for case in cases]
    title = f"System: {results.system_title}"
    return [
        "## Calls and Loops Timed in the Test Process",
        "",
        f"#### {marked(title, results=results)}",
        "",
        *table_lines(["Case", *(METRICS[name].heading for name in metrics)], rows=rows),
        "",
        *_conventions(cases),
    ]


def _conventions(cases: Sequence[CaseResult]) -> list[str]:
    """Figures under different conventions don't compare, so the table says which it holds."""
    cases_of: dict[str, list[str]] = {}
    for case in cases:
        if case.measurement.flops_convention:
            cases_of.setdefault(case.measurement.flops_convention, []).append(case.verdict.case)
    if not cases_of:
        return []
    names = [code(name) if len(cases_of) == 1 else f"{code(name)} ({', '.join(ids)})" for name, ids in cases_of.items()]
    return [f"FLOPs are counted under the convention {'; '.join(names)}.", ""]


def _notes(results: SessionResults) -> list[str]:
    notes = []
    for case in results.cases:
        reasons = "; ".join(case.verdict.reasons)
        match case.verdict.kind:
            case VerdictKind.INVALID:
                notes.append(f"- INVALID, not shown: {code(case.verdict.case)}: {reasons}")
            case VerdictKind.REGRESSED:
                accepted = f"; accepted: {case.accepted_reason}" if case.accepted_reason else ""
                waived = f", {case.waived}" if case.waived else ""
                notes.append(f"- REGRESSED{waived}: {code(case.verdict.case)}: {reasons}{accepted}")
            case _:
                pass
        if case.waiver_note:
            notes.append(f"- WAIVER: {code(case.verdict.case)}: {case.waiver_note}")
        if case.had_other_verdicts:
            notes.append(f"- RERUN: {code(case.verdict.case)}: {earlier_text(case)}")
    if results.unasked is not None:
        notes.append(f"- {unasked_title(results.unasked)}: {'; '.join(unasked_lines(results.unasked))}")
    return ["Notes:", "", *map(one_line, notes), ""] if notes else []


def _origin(results: SessionResults) -> list[str]:
    origin = results.provenance
    versions = ", ".join(f"{name} {version}" for name, version in sorted(origin.versions.items()))
    driver = f", driver {origin.driver}" if origin.driver else ""
    facts = [
        f"Date: {origin.date}, {commit_text(origin)}",
        f"git can't tell what was measured: {results.git_problem}" if results.git_problem else "",
        f"Device: {origin.device}{driver}" if origin.device else "",
        f"Versions: {versions}" if versions else "",
        f"Command: {code(origin.command)}" if origin.command else "",
        f"Judged again from: {code(results.replay_of)}" if results.replay_of else "",
    ]
    return ["Origin:", "", *(f"- {one_line(fact)}" for fact in facts if fact)]
