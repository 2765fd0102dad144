"""Perf tests in one session, one launch a case; cases that an earlier start measured are not launched again."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from gpu_check.findings import Findings
from gpu_check.programs.program import Context, run_program
from gpu_check.programs.sessions import figure, metric, read_session, run_session, short_name, verdict

CHECKPOINTS = "checkpoints"
_SESSION = "session-"
_SESSIONS = f"{_SESSION}*"
_BAD = frozenset({"INVALID", "REGRESSED"})
_LAUNCH_METRICS = (
    "time_to_first_step_sec",
    "compile_time_sec",
    "checkpoint_save_sec",
    "checkpoint_async_save_sec",
    "checkpoint_load_sec",
)


def examine(context: Context, findings: Findings) -> None:
    """Run the tests that no earlier session of the stage has measured soundly, and make a table of all."""
    left = tests_left(context)
    status = 0
    not_run: list[dict[str, str]] = []
    checkpoints = context.folder / CHECKPOINTS
    checkpoints.mkdir(exist_ok=True)
    try:
        if left:
            number = max(map(_number, context.folder.glob(_SESSIONS)), default=0) + 1
            session = run_session(
                context, f"{_SESSION}{number}", tests=left, options=[*_options(context), *context.options]
            )
            status = session.exit_status
            not_run = list(session.not_run)
    finally:
        shutil.rmtree(checkpoints, ignore_errors=True)  # 15 GB of a 1B model
        _add_table(context, findings)
        _add_launch_table(context, findings)
        _add_bad(context, findings)
    findings.remarks.extend(f"{short_name(each['nodeid'])} did not run: {each['reason']}" for each in not_run)
    if status and not findings.problems:  # an error, or a bad verdict of a GPU, which is among the problems
        findings.problems.extend(each["reason"] for each in not_run)
        findings.problems.append(f"the session exited with {status}; see log.txt")


def _options(context: Context) -> list[str]:
    """Return the options of a session; on a CPU, where no speed is judged, only errors fail it."""
    if context.is_cpu:
        return ["--update-baselines", "--perf-fail-on=none"]
    return ["--update-baselines"]


def tests_left(context: Context) -> list[str]:
    """Return the tests of which not every case has been measured, or whose last verdict is bad."""
    sound: Counter[str] = Counter()
    for case in judged_cases(context.folder):
        if verdict(case) not in _BAD:
            sound[case["nodeid"]] += 1
    return [nodeid for nodeid in context.tests if sound[nodeid] < _cases_of_a_test(context)]


def _cases_of_a_test(context: Context) -> int:
    """Return the number of cases that each test makes: one for each framework."""
    for option in context.options:
        name, _, frameworks = option.partition("=")
        if name == "--perf-framework":
            return len(frameworks.split(","))
    return 1


def measured_cases(context: Context, *, stage: str = "") -> list[dict[str, Any]]:
    """Return the cases that sessions of a stage have measured; INVALID ones only on a CPU, which judges no speed.

    Args:
        context: Stage that asks.
        stage: Name of the stage whose cases they are; empty for its own.
    """
    folder = context.check_folder / stage if stage else context.folder
    cases = []
    for case in judged_cases(folder):
        if verdict(case) != "INVALID" or (context.is_cpu and case["measurement"]["runs"]):
            cases.append(case)
    return cases


def judged_cases(folder: Path) -> list[dict[str, Any]]:
    """Return the cases of all sessions of a stage; of those that were judged several times, the last verdict."""
    cases = {}
    for output in sorted(folder.glob(_SESSIONS), key=_number):
        for case in read_session(output).cases:
            cases[case["nodeid"], case["measurement"]["case"]] = case
    return list(cases.values())


def _number(output: Path) -> int:
    return int(output.name.removeprefix(_SESSION))


def _add_bad(context: Context, findings: Findings) -> None:
    """Add the verdicts that fail a stage. A CPU judges no speed, so that there they only keep it from passing."""
    sentences = findings.unjudged if context.is_cpu else findings.problems
    for case in judged_cases(context.folder):
        if verdict(case) in _BAD:
            reasons = "; ".join(case["verdict"]["reasons"])
            sentences.append(f"{short_name(case['nodeid'])} is {verdict(case)}: {reasons}")


def _add_table(context: Context, findings: Findings) -> None:
    columns = ["case", "verdict", "step ms", "tokens/s/GPU", "TFLOP/s/GPU", "MFU %", "peak GiB", "call ms"]
    table = findings.table("Cases, one launch each", columns)
    for case in measured_cases(context):
        step_sec, call_sec = metric(case, "step_time_sec"), metric(case, "time_per_call_sec")
        table.add(
            f"{short_name(case['nodeid'])}{_framework(case)}",
            verdict(case),
            figure(None if step_sec is None else step_sec * 1e3, digits=1),
            figure(metric(case, "tokens_per_sec_per_gpu")),
            figure(metric(case, "tflops_per_sec_per_gpu"), digits=1),
            figure(metric(case, "mfu_pct"), digits=1),
            figure(metric(case, "peak_memory_gib"), digits=1),
            figure(None if call_sec is None else call_sec * 1e3, digits=3),
        )


def _add_launch_table(context: Context, findings: Findings) -> None:
    """Add the metrics of launches that a recipe asks for; no table where none does."""
    rows = []
    for case in measured_cases(context):
        values = [metric(case, name) for name in _LAUNCH_METRICS]
        if any(value is not None for value in values):
            rows.append([short_name(case["nodeid"]), *(figure(value, digits=2) for value in values)])
    if rows:
        findings.table("Seconds of launches", ["case", *_LAUNCH_METRICS]).rows.extend(rows)


def _framework(case: dict[str, Any]) -> str:
    framework = (case["plan"] or {}).get("framework", "torch")
    return "" if framework == "torch" else f" ({framework})"


if __name__ == "__main__":
    sys.exit(run_program(examine))
