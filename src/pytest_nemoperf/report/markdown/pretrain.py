"""Page of a session, with the columns of the published performance pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.metrics import IN_PROCESS_PAGE, PRETRAIN_PAGE
from pytest_nemoperf.report.cells import INJECTION_MEANING, commit_text, earlier_text, injection_text
from pytest_nemoperf.report.markdown.frameworks import framework_sections
from pytest_nemoperf.report.markdown.rl import rl_sections
from pytest_nemoperf.report.stored import unasked_lines, unasked_title
from pytest_nemoperf.report.tables import (
    NOT_APPLICABLE,
    Planned,
    code,
    figure_cells,
    marked,
    model_cells,
    one_line,
    plan_cells,
    titled_table,
)
from pytest_nemoperf.results.cases import CaseResult, SessionResults
from pytest_nemoperf.verdict.comparison import VerdictKind

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

_FRAMEWORK_TITLES: Mapping[str, str] = MappingProxyType(
    {
        "automodel": "Automodel",
        "megatron": "Megatron-Core",
        "megatron_bridge": "Megatron-Bridge",
        "megatron_lm": "Megatron-LM",
        "nemo_rl": "NeMo RL",
        "torch": "Native Engine",
        "trl": "TRL",
    }
)
"""Frameworks as pages call them; others by their names."""


def render_markdown(results: SessionResults) -> str:
    """Return the session as a page: pre-training by framework and precision, RL, frameworks side by side, the rest.

    Invalid cases are in the notes only, with their reasons.
    """
    lines: list[str] = []
    if results.inject_pct:
        lines += [f"> **WARNING. {injection_text(results.inject_pct)}.** {INJECTION_MEANING}", ""]
    trained: list[Planned] = []
    rl: list[Planned] = []
    others: list[CaseResult] = []
    for case in results.cases:
        if case.verdict.kind is VerdictKind.INVALID:
            continue
        if case.plan is None:
            others.append(case)
        elif case.plan.rl is None:
            trained.append((case.plan, case))
        else:
            rl.append((case.plan, case))
    trained.sort(key=_page_order)
    for framework, rows in groupby(trained, key=lambda row: row[0].framework):
        title = _FRAMEWORK_TITLES.get(framework, framework)
        lines += [f"## {title} Pre-Training Performance", ""]
        for precision, group in groupby(rows, key=lambda row: row[0].precision):
            lines += _plan_section(list(group), precision=precision.upper(), results=results)
    rl.sort(key=_page_order)
    lines += rl_sections(rl, results=results)
    if others:
        others.sort(key=lambda case: case.verdict.case)
        lines += _other_section(others, results=results)
    lines += framework_sections(results)
    return "\n".join([*lines, *_notes(results), *_origin(results)]) + "\n"


def _page_order(row: Planned) -> tuple[object, ...]:
    plan, case = row
    kind = (plan.workload, plan.framework, plan.precision)
    return (*kind, plan.model.name, plan.layout.total_gpus, plan.seq_len, plan.global_batch_size, case.verdict.case)


def _plan_section(rows: Sequence[Planned], *, precision: str, results: SessionResults) -> list[str]:
    table = []
    names = model_cells(rows, columns=_PLAN_COLUMNS, results=results)
    for name, (plan, case) in zip(names, rows, strict=True):
        figures = figure_cells(case, metrics=PRETRAIN_PAGE)
        table.append({"Model": name, **plan_cells(plan, columns=_PLAN_COLUMNS), **figures})
    title = f"System: {results.system_title}. Precision: {precision}"
    return [*titled_table(title, rows=table, results=results), *_conventions([case for _, case in rows])]


def _other_section(cases: Sequence[CaseResult], *, results: SessionResults) -> list[str]:
    known: set[str] = set()
    for case in cases:
        for run in case.measurement.runs:
            known.update(run.metrics)
    metrics = [metric for metric in IN_PROCESS_PAGE if metric.name in known]
    rows = []
    for case in cases:
        name = marked(case.verdict.case, results=results)
        rows.append({"Case": name, **figure_cells(case, metrics=metrics)})
    table = titled_table(f"System: {results.system_title}", rows=rows, results=results)
    return ["## Calls and Loops Timed in the Test Process", "", *table, *_conventions(cases)]


def _conventions(cases: Sequence[CaseResult]) -> list[str]:
    """Return a note on the conventions that FLOPs are counted under; figures of different ones don't compare."""
    cases_of: dict[str, list[str]] = {}
    for case in cases:
        if case.measurement.flops_convention:
            cases_of.setdefault(case.measurement.flops_convention, []).append(case.verdict.case)
    if not cases_of:
        return []
    names = []
    for convention, ids in cases_of.items():
        name = code(convention)
        if len(cases_of) > 1:
            name += f" ({', '.join(ids)})"
        names.append(name)
    return [f"FLOPs are counted under the convention {'; '.join(names)}.", ""]


def _notes(results: SessionResults) -> list[str]:
    notes: list[str] = []
    for case in results.cases:
        name = code(case.verdict.case)
        reasons = "; ".join(case.verdict.reasons)
        if case.verdict.kind is VerdictKind.INVALID:
            notes.append(f"- INVALID, not shown: {name}: {reasons}")
        if case.verdict.kind is VerdictKind.REGRESSED:
            verdict = "REGRESSED"
            if case.waived:
                verdict += f", {case.waived}"
            if case.accepted_reason:
                reasons += f"; accepted: {case.accepted_reason}"
            notes.append(f"- {verdict}: {name}: {reasons}")
        if case.waiver_note:
            notes.append(f"- WAIVER: {name}: {case.waiver_note}")
        if case.had_other_verdicts:
            notes.append(f"- RERUN: {name}: {earlier_text(case)}")
        if case.published is not None:
            page = case.published
            notes.append(f"- {name}: judged by row {page.row} of {page.title} ({page.place}), one value without spread")
        if case.plan is not None:
            notes += [f"- {name}: {note}" for note in case.plan.notes]
    if results.unasked is not None:
        notes.append(f"- {unasked_title(results.unasked)}: {'; '.join(unasked_lines(results.unasked))}")
    if not notes:
        return []
    return ["Notes:", "", *map(one_line, notes), ""]


def _origin(results: SessionResults) -> list[str]:
    origin = results.provenance
    facts = [f"Date: {origin.date}, {commit_text(origin)}"]
    if results.git_problem:
        facts.append(f"git can't tell what was measured: {results.git_problem}")
    if origin.device:
        device = f"Device: {origin.device}"
        if origin.driver:
            device += f", driver {origin.driver}"
        facts.append(device)
    if origin.versions:
        versions = [f"{name} {version}" for name, version in sorted(origin.versions.items())]
        facts.append(f"Versions: {', '.join(versions)}")
    if origin.command:
        facts.append(f"Command: {code(origin.command)}")
    if results.against == "published":
        facts.append("Judged by the newest matching rows of published pages, not by stored baselines")
    if results.replay_of:
        facts.append(f"Judged again from: {code(results.replay_of)}")
    lines = ["Origin:", ""]
    for fact in facts:
        lines.append(f"- {one_line(fact)}")
    return lines
