"""Summary of a check: a table of the stages, then what each of them found."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from gpu_check.findings import Table, read_findings
from gpu_check.stages import STAGES
from gpu_check.state import Outcome, State
from pytest_nemoperf.json_codec import to_data, to_printed_json

SUMMARY_JSON = "summary.json"
SUMMARY_MARKDOWN = "summary.md"


def stage_table(state: State) -> Table:
    """Return the table of all stages: outcome, time, limit, and the reason or what the stage shows."""
    table = Table(title=f"Stages on {state.system}", columns=["stage", "result", "time s", "limit s", "remark"])
    for stage in STAGES:
        kept = state.stages.get(stage.name)
        if kept is None:
            table.add(stage.name, "not run", "", f"{stage.limit_sec:.0f}", stage.shows)
        else:
            remark = kept.detail or stage.shows
            table.add(stage.name, kept.outcome, f"{kept.seconds:.0f}", f"{kept.limit_sec:.0f}", remark)
    return table


def write_summary(folder: Path, *, state: State) -> None:
    """Write both summaries of a check into its folder."""
    left = left_text(state)
    text = [f"# GPU check of {state.system}", stage_table(state).markdown(), *([left] if left else [])]
    stages: dict[str, Any] = {}
    for stage in STAGES:
        kept = state.stages.get(stage.name)
        if kept is None:
            continue
        findings = read_findings(folder / stage.name)
        stages[stage.name] = {"shows": stage.shows, **to_data(kept), "findings": to_data(findings)}
        text.append(f"## {stage.name}: {kept.outcome}")
        text.append(kept.detail or f"Shown: {stage.shows}.")
        text.extend(f"- problem: {problem}" for problem in findings.problems)
        text.extend(f"- not judged: {sentence}" for sentence in findings.unjudged)
        text.extend(f"- {remark}" for remark in findings.remarks)
        text.extend(table.markdown() for table in findings.tables)
    (folder / SUMMARY_MARKDOWN).write_text("\n\n".join(text) + "\n", encoding="utf-8")
    summary = {"system": state.system, "left": left, "stages": stages}
    (folder / SUMMARY_JSON).write_text(to_printed_json(summary), encoding="utf-8")


def left_text(state: State) -> str:
    """Return a sentence on the stages that another start takes up; empty if none is left."""
    left = []
    for stage in STAGES:
        kept = state.stages.get(stage.name)
        if kept is None:
            left.append(stage.name)
        elif not kept.outcome.is_final and kept.outcome is not Outcome.NOT_HERE:
            left.append(f"{stage.name} ({kept.outcome})")
    if not left:
        return ""
    return f"Left for the next start: {', '.join(left)}. Start the check again to go on."


def terminal_text(state: State, *, columns: int) -> str:
    """Return the table of the stages, then the reasons of those that did not pass, and what is left."""
    rows = [["stage", "result", "time s", "limit s"], *(row[:4] for row in stage_table(state).rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for name, result, seconds, limit_sec in rows:
        cells = [name.ljust(widths[0]), result.ljust(widths[1]), seconds.rjust(widths[2]), limit_sec.rjust(widths[3])]
        lines.append("  ".join(cells).rstrip())
    for name, kept in state.stages.items():
        if kept.detail:
            lines.append(textwrap.fill(f"{name}: {kept.detail}", columns, subsequent_indent="  "))
    left = left_text(state)
    if left:
        lines.append(textwrap.fill(left, columns))
    return "\n".join(lines)
