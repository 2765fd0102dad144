"""Summary of a check: a table of the stages, then what each of them found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpu_check.findings import Table, read_findings
from gpu_check.stages import STAGES
from gpu_check.state import State
from pytest_nemoperf.errors import shorten
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
    text = [f"# GPU check of {state.system}", stage_table(state).markdown()]
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
        text.extend(f"- {remark}" for remark in findings.remarks)
        text.extend(table.markdown() for table in findings.tables)
    (folder / SUMMARY_MARKDOWN).write_text("\n\n".join(text) + "\n", encoding="utf-8")
    (folder / SUMMARY_JSON).write_text(to_printed_json({"system": state.system, "stages": stages}), encoding="utf-8")


def terminal_table(state: State) -> str:
    """Return the table of the stages in aligned columns, with remarks on those that did not pass."""
    rows = [["stage", "result", "time s", "limit s", ""]]
    for name, result, seconds, limit_sec, _remark in stage_table(state).rows:
        kept = state.stages.get(name)
        rows.append([name, result, seconds, limit_sec, shorten(kept.detail) if kept else ""])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return "\n".join(lines)
