"""``nemoperf judge``: stored runs, or logs of jobs that no session started, judged without ranks or pytest."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.baselines.files import baseline_path, find_baseline, read_baseline
from pytest_nemoperf.cli.baselines_folder import baselines_dir
from pytest_nemoperf.cli.given import GivenCase, add_given_options, given_case
from pytest_nemoperf.cli.terminal import has_color, terminal_width, write
from pytest_nemoperf.errors import RecordError
from pytest_nemoperf.json_codec import to_printed_json
from pytest_nemoperf.records.machine_key import key_of_case
from pytest_nemoperf.records.provenance import utc_day
from pytest_nemoperf.report.terminal.failure import render_failure
from pytest_nemoperf.results.cases import CaseReport, CaseResult
from pytest_nemoperf.runs.replay import CASE_FILE, CaseRecord
from pytest_nemoperf.verdict.comparison import NEEDS_ACCEPTANCE
from pytest_nemoperf.verdict.judge import Verdict, judge
from pytest_nemoperf.verdict.waivers import WaiverEffect, apply_waiver, parse_waiver

_EPILOG = """\
examples:
  nemoperf judge --baseline baselines/h100/CASE.json \\
      .nemoperf/runs/20261123-101500/CASE
  git show v1.2:baselines/h100/CASE.json > CASE.json
  nemoperf judge --baseline CASE.json --tolerance 3 CASE/run-1 CASE/run-2

  logs of three jobs of one recipe, beside what nemoperf record stored:
  nemoperf judge --log mon.log tue.log wed.log --log-format megatron \\
      --recipe recipe.json --system h100
  an event file, or the folder of a run's event files, is a log too:
  nemoperf judge --log runs/mon runs/tue --log-format nemo_rl --recipe recipe.json

exit code:
  0 unless the verdict is one that failed the session's test; perf_waive counts
    (of logs: unless it is REGRESSED or INVALID)
  1 if it is
  2 if an option is wrong, or a file can't be trusted
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options, its examples and exit codes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    add_given_options(parser)
    stored = parser.add_argument_group("what to judge by, and how to print")
    stored.add_argument(
        "--baseline", type=Path, metavar="FILE", help="stored baseline to judge against, of any name and folder"
    )
    stored.add_argument(
        "--baselines",
        type=Path,
        metavar="DIR",
        help="folder in which the case's baseline is looked up, without --baseline (default: baselines)",
    )
    stored.add_argument("--json", action="store_true", help="print the case as results.json has it")


def run(arguments: argparse.Namespace) -> int:
    """Print the verdict on given runs; return the exit code.

    Raises:
        NemoPerfError: If a file can't be trusted, or runs do not belong together.
    """
    if arguments.baseline is not None and arguments.baselines is not None:
        raise RecordError("--baseline with --baselines: judge against one file, or against a folder's; drop one")
    case = given_case(arguments)
    if arguments.baseline is not None:
        baseline: Baseline | None = read_baseline(arguments.baseline, is_in_place=False)
        path, looked_in = arguments.baseline, ""
    else:
        folder = baselines_dir(arguments.baselines)
        baseline = find_baseline(folder, system=case.plan.system, case=case.plan.case)
        path, looked_in = baseline_path(folder, system=case.plan.system, case=case.plan.case), str(folder)
    verdict = verdict_on(case, baseline=baseline, looked_in=looked_in)
    report = _report(case, verdict=verdict, baseline=baseline, path=path, arguments=arguments)
    print_case(report, is_json=arguments.json)
    return int(report.result.is_failure)


def verdict_on(case: GivenCase, *, baseline: Baseline | None, looked_in: str) -> Verdict:
    """Return the verdict on given runs, with notes on their logs.

    Args:
        case: The runs.
        baseline: Baseline to judge against; None for none.
        looked_in: Folder without a baseline, for the reason of NO BASELINE.
    """
    verdict = judge(case.measurement, baseline=baseline, machine=case.machine, policy=case.policy, looked_in=looked_in)
    notes = list(case.notes)
    if baseline is not None and case.logs:
        notes += machine_notes(case, baseline=baseline)
        notes += _repeated_run_notes(case, baseline=baseline)
    return replace(verdict, reasons=(*verdict.reasons, *notes))


def machine_notes(case: GivenCase, *, baseline: Baseline) -> Iterator[str]:
    """Yield a note with the options that state the rest of the baseline's machine, for logs."""
    missing = []
    needed = key_of_case(baseline.machine, num_gpus=case.plan.layout.total_gpus)
    for key in sorted(needed.keys() - case.machine.keys()):
        value = str(needed[key])
        is_bare_name = key == "machine" and "=" not in value
        missing.append(shlex.join(["--machine", value if is_bare_name else f"{key}={value}"]))
    if missing:
        yield f"a log does not say what machine it is of; if it was one like the baseline's, add {' '.join(missing)}"


def print_case(report: CaseReport, *, is_json: bool) -> None:
    """Print a case as the block of a failing test, or as JSON."""
    if is_json:
        text = to_printed_json(report.result)
    else:
        text = render_failure(report, width=terminal_width(), color=has_color()) + "\n"
        if report.result.waived:
            text += f"{report.result.waived}: its test passes\n"
    write(text)


def _repeated_run_notes(case: GivenCase, *, baseline: Baseline) -> Iterator[str]:
    """Yield a note if a log is one that the baseline was recorded from."""
    stored = [replace(run, session="") for run in baseline.runs]
    for number, run in enumerate(case.measurement.runs):
        own = replace(run, session="", hosts=(), unknown={})
        if own in stored:
            yield f"{case.logs[number].path} is run {stored.index(own) + 1} of the baseline itself"


def _report(
    case: GivenCase, *, verdict: Verdict, baseline: Baseline | None, path: Path, arguments: argparse.Namespace
) -> CaseReport:
    waiver = WaiverEffect()
    if case.record is not None:
        waiver = _waiver_effect(verdict, record=case.record)
    return CaseReport(
        result=CaseResult(
            nodeid="",
            measurement=case.measurement,
            verdict=verdict,
            plan=case.plan,
            baseline_path=str(path) if baseline is not None else "",
            is_failure=waiver.is_expired or (verdict.kind in case.fail_on and not waiver.waived),
            waived=waiver.waived,
            waiver_note=waiver.note,
            has_expired_waiver=waiver.is_expired,
            run_dir=case.run_dir,
            logs=case.logs,
        ),
        baseline=baseline,
        accept_command=_record_command(case, verdict=verdict, arguments=arguments),
        environment={**case.provenance.environment(), **case.measurement.environment},
    )


def _record_command(case: GivenCase, *, verdict: Verdict, arguments: argparse.Namespace) -> str:
    """Return the command that makes a baseline of logs; empty with ``--baseline``, another file to judge by."""
    if not case.logs or arguments.baseline is not None:
        return ""
    words = ["nemoperf", "record", *case.words]
    if arguments.baselines is not None:
        words += ["--baselines", str(arguments.baselines)]
    if verdict.kind in NEEDS_ACCEPTANCE:
        words += ["--accept-regression", "--reason=why it is acceptable"]
    return shlex.join(words)


def _waiver_effect(verdict: Verdict, *, record: CaseRecord) -> WaiverEffect:
    """Return the effect of the test's waiver on the verdict, on the day of the session."""
    if not record.waiver:
        return WaiverEffect()
    waiver = parse_waiver(record.waiver, subject=f"{CASE_FILE} of {record.case}: waiver")
    try:
        day = utc_day(record.provenance.date)
    except RecordError as exc:
        raise RecordError(f"{CASE_FILE} of {record.case}: provenance.date: {exc}; copy the file again") from None
    return apply_waiver(verdict, waiver=waiver, today=day, release=record.release)
