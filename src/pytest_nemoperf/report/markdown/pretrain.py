"""Page of a session, with the columns of the published performance pages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from pytest_nemoperf.frameworks.titles import framework_title
from pytest_nemoperf.report.cells import INJECTION_MEANING, commit_text, earlier_text, injection_text
from pytest_nemoperf.report.escape import code, markdown_text
from pytest_nemoperf.report.markdown.frameworks import framework_sections
from pytest_nemoperf.report.markdown.rl import RolloutCase, rl_sections
from pytest_nemoperf.report.markdown.row_tables import call_table, pretrain_table
from pytest_nemoperf.report.stored import unasked_lines, unasked_title
from pytest_nemoperf.report.tables import INJECTED, marked
from pytest_nemoperf.results.cases import CaseResult, SessionResults
from pytest_nemoperf.results.row import Row
from pytest_nemoperf.results.rows import row_of_case
from pytest_nemoperf.verdict.comparison import VerdictKind


def render_markdown(results: SessionResults) -> str:
    """Return the session as a page: pre-training by framework and precision, RL, frameworks side by side, the rest.

    Invalid cases are in the notes only, with their reasons.
    """
    lines: list[str] = []
    if results.inject_pct:
        lines += [f"> **WARNING. {injection_text(results.inject_pct)}.** {INJECTION_MEANING}", ""]
    mark = INJECTED if results.inject_pct else ""
    trained: list[Row] = []
    rl: list[RolloutCase] = []
    others: list[Row] = []
    for case in results.cases:
        if case.verdict.kind is VerdictKind.INVALID:
            continue
        row = row_of_case(case, provenance=results.provenance, path="")
        if not row.model:
            others.append(row)
        elif row.rollouts is None:
            trained.append(row)
        else:
            rl.append(RolloutCase(row=row, rollouts=row.rollouts, runs=case.measurement.runs))
    trained.sort(key=_page_order)
    for framework, rows in groupby(trained, key=lambda row: row.framework):
        title = framework_title(framework)
        lines += [f"## {markdown_text(title)} Pre-Training Performance", ""]
        for precision, group in groupby(rows, key=lambda row: row.precision):
            title = f"System: {results.system_title}. Precision: {precision}"
            lines += _section(title, table=list(group), mark=mark)
    rl.sort(key=lambda case: _page_order(case.row))
    lines += rl_sections(rl, system_title=results.system_title, mark=mark)
    if others:
        others.sort(key=lambda row: row.case)
        lines += ["## Calls and Loops Timed by Tests", ""]
        lines += _section(f"System: {results.system_title}", table=others, mark=mark)
    lines += framework_sections(results)
    return "\n".join([*lines, *_notes(results), *_origin(results)]) + "\n"


def _page_order(row: Row) -> tuple[object, ...]:
    """Return the key that sorts rows with a model as pages have them: by model, then size."""
    kind = (row.workload, row.framework, row.precision)
    return (*kind, row.model, row.gpus, row.seq_len, row.global_batch_size, row.case)


def _section(title: str, *, table: Sequence[Row], mark: str) -> list[str]:
    lines = call_table(table, mark=mark)
    if table[0].model:
        lines = pretrain_table(table, mark=mark)
    return [f"#### {markdown_text(marked(title, mark=mark))}", "", *lines, "", *_conventions(table)]


def _conventions(rows: Sequence[Row]) -> list[str]:
    """Return a note on the conventions that FLOPs are counted under; figures of different ones don't compare."""
    cases_of: dict[str, list[str]] = {}
    for row in rows:
        if row.flops_convention:
            cases_of.setdefault(row.flops_convention, []).append(row.case)
    if not cases_of:
        return []
    names = []
    for convention, ids in cases_of.items():
        name = code(convention)
        if len(cases_of) > 1:
            name += f" ({', '.join(map(markdown_text, ids))})"
        names.append(name)
    return [f"FLOPs are counted under the convention {'; '.join(names)}.", ""]


def _notes(results: SessionResults) -> list[str]:
    notes: list[str] = []
    for case in results.cases:
        reasons = "; ".join(case.verdict.reasons)
        if case.verdict.kind is VerdictKind.INVALID:
            notes.append(_note(case, reasons, head="INVALID, not shown"))
        if case.verdict.kind is VerdictKind.REGRESSED:
            verdict = "REGRESSED"
            if case.waived:
                verdict += f", {case.waived}"
            if case.accepted_reason:
                reasons += f"; accepted: {case.accepted_reason}"
            notes.append(_note(case, reasons, head=verdict))
        if case.waiver_note:
            notes.append(_note(case, case.waiver_note, head="WAIVER"))
        if case.had_other_verdicts:
            notes.append(_note(case, earlier_text(case), head="RERUN"))
        if case.published is not None:
            page = case.published
            judged_by = f"judged by row {page.row} of {page.title} ({page.place}), one value without spread"
            notes.append(_note(case, judged_by))
        if case.plan is not None:
            notes += [_note(case, note) for note in case.plan.notes]
    if results.unasked is not None:
        unasked = f"{unasked_title(results.unasked)}: {'; '.join(unasked_lines(results.unasked))}"
        notes.append(f"- {markdown_text(unasked)}")
    if not notes:
        return []
    return ["Notes:", "", *notes, ""]


def _note(case: CaseResult, text: str, *, head: str = "") -> str:
    """Return a note on a case as an item of a list, behind a head if one is given."""
    begins = f"{markdown_text(head)}: " if head else ""
    return f"- {begins}{code(case.verdict.case)}: {markdown_text(text)}"


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
    if results.against == "published":
        facts.append("Judged by matching rows of published pages, not by stored baselines")
    lines = [f"- {markdown_text(fact)}" for fact in facts]
    if origin.command:
        lines.append(f"- Command: {code(origin.command)}")
    if results.replay_of:
        lines.append(f"- Judged again from: {code(results.replay_of)}")
    return ["Origin:", "", *lines]
