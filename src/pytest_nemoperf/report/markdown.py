"""Tables for performance pages, with the pages' own columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType

from pytest_nemoperf.measure import median_over_runs
from pytest_nemoperf.metrics import (
    METRICS,
    STEP_TIME_SEC,
    TFLOPS_PER_SEC_PER_GPU,
    TIME_PER_CALL_SEC,
    TOKENS_PER_SEC_PER_GPU,
    format_number,
)
from pytest_nemoperf.recipe import PRETRAIN, Plan
from pytest_nemoperf.report.cells import INJECTION_MEANING, commit_text, injection_text
from pytest_nemoperf.results import CaseResult, SessionResults
from pytest_nemoperf.verdict import VerdictKind

_NOT_APPLICABLE = "n/a"
_PLAN_COLUMNS: Mapping[str, Callable[[Plan], object]] = MappingProxyType(
    {
        "Model": lambda plan: plan.model.name,
        "#-GPUs": lambda plan: plan.layout.total_gpus,
        "GBS": lambda plan: plan.global_batch_size,
        "MBS": lambda plan: plan.micro_batch_size,
        "Sequence Length": lambda plan: plan.seq_len,
        "FSDP": lambda plan: int(plan.layout.dp_shard > 1),
        "TP": lambda plan: plan.layout.tp,
        "PP": lambda plan: plan.layout.pp,
        "CP": lambda plan: plan.layout.cp,
        "VP": lambda plan: plan.layout.vp if plan.layout.pp > 1 else _NOT_APPLICABLE,
        "EP": lambda plan: plan.layout.ep,
        "GA": lambda plan: plan.grad_accum_steps,
    }
)
_PLAN_METRICS = (TOKENS_PER_SEC_PER_GPU.name, TFLOPS_PER_SEC_PER_GPU.name)
_OTHER_METRICS = (TIME_PER_CALL_SEC.name, STEP_TIME_SEC.name, *_PLAN_METRICS)
_TITLES: Mapping[str, str] = MappingProxyType({PRETRAIN: "Pre-Training Performance"})
_INJECTED = "INJECTED DELAY, NOT A RESULT"

_Planned = tuple[Plan, CaseResult]


def render_markdown(results: SessionResults) -> str:
    """Return the session as a page: a table for each framework and precision, one for what had no plan, notes, origin.

    Invalid cases are named with their reason and never shown as figures.
    """
    lines: list[str] = []
    if results.inject_pct:
        lines += [f"> **WARNING. {injection_text(results.inject_pct)}.** {INJECTION_MEANING}", ""]
    sound = [case for case in results.cases if case.verdict.kind is not VerdictKind.INVALID]
    planned = sorted(((case.plan, case) for case in sound if case.plan is not None), key=_page_order)
    for (workload, framework), rows in groupby(planned, key=lambda row: (row[0].workload, row[0].framework)):
        lines += [f"## {_TITLES[workload]} ({framework})", ""]
        for precision, group in groupby(rows, key=lambda row: row[0].precision):
            lines += _plan_section(list(group), precision=precision.upper(), results=results)
    unplanned = sorted((case for case in sound if case.plan is None), key=lambda case: case.verdict.case)
    if unplanned:
        lines += _other_section(unplanned, results=results)
    return "\n".join([*lines, *_notes(results), *_origin(results)]) + "\n"


def _page_order(row: _Planned) -> tuple[object, ...]:
    plan, case = row
    kind = (plan.workload, plan.framework, plan.precision)
    return (*kind, plan.model.name, plan.layout.total_gpus, plan.seq_len, plan.global_batch_size, case.verdict.case)


def _plan_section(rows: Sequence[_Planned], *, precision: str, results: SessionResults) -> list[str]:
    headings = [*_PLAN_COLUMNS, *(METRICS[name].heading for name in _PLAN_METRICS)]
    settings = [[str(value(plan)) for value in _PLAN_COLUMNS.values()] for plan, _ in rows]
    alike = Counter(map(tuple, settings))
    cells = []
    for (_, case), (model, *others) in zip(rows, settings, strict=True):
        is_ambiguous = alike[(model, *others)] > 1  # another framework variant: only the case id tells them apart
        name = f"{model} ({case.verdict.case})" if is_ambiguous else model
        cells.append([_marked(name, results=results), *others, *_figures(case, metrics=_PLAN_METRICS)])
    cases = [case for _, case in rows]
    title = f"System: {results.system_title}. Precision: {precision}"
    return [
        f"#### {_marked(title, results=results)}",
        "",
        *_table(headings, rows=cells),
        "",
        *_conventions(cases),
    ]


def _other_section(cases: Sequence[CaseResult], *, results: SessionResults) -> list[str]:
    known = {name for case in cases for run in case.measurement.runs for name in run.metrics}
    metrics = [name for name in _OTHER_METRICS if name in known]
    rows = [[_marked(case.verdict.case, results=results), *_figures(case, metrics=metrics)] for case in cases]
    title = f"System: {results.system_title}"
    return [
        "## Calls and Loops Timed in the Test Process",
        "",
        f"#### {_marked(title, results=results)}",
        "",
        *_table(["Case", *(METRICS[name].heading for name in metrics)], rows=rows),
        "",
        *_conventions(cases),
    ]


def _figures(case: CaseResult, *, metrics: Sequence[str]) -> list[str]:
    values = [median_over_runs(case.measurement.runs, metric=name) for name in metrics]
    return [_NOT_APPLICABLE if value is None else _page_number(value) for value in values]


def _page_number(value: float) -> str:
    """Pages print no thousands separators."""
    return format_number(value).replace(",", "")


def _conventions(cases: Sequence[CaseResult]) -> list[str]:
    """Figures under different conventions don't compare, so the table says which it holds."""
    cases_of: dict[str, list[str]] = {}
    for case in cases:
        if case.measurement.flops_convention:
            cases_of.setdefault(case.measurement.flops_convention, []).append(case.verdict.case)
    if not cases_of:
        return []
    names = [
        _code(name) if len(cases_of) == 1 else f"{_code(name)} ({', '.join(ids)})" for name, ids in cases_of.items()
    ]
    return [f"FLOPs are counted under the convention {'; '.join(names)}.", ""]


def _notes(results: SessionResults) -> list[str]:
    notes = []
    for case in results.cases:
        reasons = "; ".join(case.verdict.reasons)
        match case.verdict.kind:
            case VerdictKind.INVALID:
                notes.append(f"- INVALID, not shown: {_code(case.verdict.case)}: {reasons}")
            case VerdictKind.REGRESSED:
                accepted = f"; accepted: {case.accepted_reason}" if case.accepted_reason else ""
                notes.append(f"- REGRESSED: {_code(case.verdict.case)}: {reasons}{accepted}")
            case _:
                pass
    return ["Notes:", "", *map(_one_line, notes), ""] if notes else []


def _origin(results: SessionResults) -> list[str]:
    origin = results.provenance
    versions = ", ".join(f"{name} {version}" for name, version in sorted(origin.versions.items()))
    driver = f", driver {origin.driver}" if origin.driver else ""
    facts = [
        f"Date: {origin.date}, {commit_text(origin)}",
        f"Device: {origin.device}{driver}" if origin.device else "",
        f"Versions: {versions}" if versions else "",
        f"Command: {_code(origin.command)}" if origin.command else "",
    ]
    return ["Origin:", "", *(f"- {_one_line(fact)}" for fact in facts if fact)]


def _table(headings: Sequence[str], *, rows: Sequence[Sequence[str]]) -> list[str]:
    """A bar or a line break in a cell must not break the table."""
    cells = [[_one_line(cell).replace("|", r"\|") for cell in row] for row in (headings, *rows)]
    rule = ["-" * len(heading) for heading in headings]
    return ["| " + " | ".join(row) + " |" for row in (cells[0], rule, *cells[1:])]


def _marked(text: str, *, results: SessionResults) -> str:
    """A heading or a row of a self-test stays recognisable when it is copied without the warning."""
    return f"{text} ({_INJECTED})" if results.inject_pct else text


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
