"""``nemoperf judge``: stored runs judged again against a baseline, without ranks or pytest."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from pytest_nemoperf.baselines.files import read_baseline
from pytest_nemoperf.errors import PlanError, RecordError
from pytest_nemoperf.frameworks.builtin import builtin_frameworks
from pytest_nemoperf.frameworks.protocol import Framework
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.report.terminal.failure import render_failure
from pytest_nemoperf.results.cases import CaseReport, CaseResult
from pytest_nemoperf.runs.replay import CASE_FILE, CaseRecord, StoredCase, load_runs, measure_stored
from pytest_nemoperf.verdict.judge import Verdict, judge
from pytest_nemoperf.verdict.policy import VerdictPolicy, parse_tolerances, with_layer
from pytest_nemoperf.verdict.waivers import WaiverEffect, apply_waiver, parse_waiver

_EPILOG = """\
examples:
  nemoperf judge --baseline baselines/h100/CASE.json \\
      .nemoperf/runs/20261123-101500/CASE
  git show v1.2:baselines/h100/CASE.json > CASE.json
  nemoperf judge --baseline CASE.json --tolerance 3 CASE/run-1 CASE/run-2

exit code:
  0 unless the verdict is one that failed the session's test; perf_waive counts
  1 if it is
  2 if an option is wrong, or a file can't be trusted
"""


def add_judge_command(parser: argparse.ArgumentParser) -> None:
    """Add the command's options, its examples and exit codes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folders of one case, <case>/run-<N>; or the case's folder, for all runs that its session judged",
    )
    parser.add_argument("--baseline", type=Path, required=True, metavar="FILE", help="stored baseline to judge against")
    parser.add_argument(
        "--tolerance",
        action="append",
        default=[],
        metavar="[METRIC=]PCT",
        help="allowed worsening instead of the session's, for all judged by default or for one metric; repeatable",
    )
    parser.add_argument(
        "--max-runs",
        type=_count,
        metavar="N",
        help="launches that a case is judged by at most, instead of the session's",
    )
    parser.add_argument("--json", action="store_true", help="print the case as results.json has it")


def judge_runs(arguments: argparse.Namespace) -> int:
    """Print the verdict on stored runs; return the exit code.

    Raises:
        NemoPerfError: If a file can't be trusted, or runs do not belong together.
    """
    stored = load_runs(arguments.runs)
    report = _report(stored, arguments=arguments)
    if arguments.json:
        text = to_json(report.result)
    else:
        width = shutil.get_terminal_size().columns
        text = render_failure(report, width=width, color=sys.stdout.isatty() and "NO_COLOR" not in os.environ) + "\n"
        if report.result.waived:
            text += f"{report.result.waived}: its test passes\n"
    sys.stdout.write(text)
    return int(report.result.is_failure)


def _report(stored: StoredCase, *, arguments: argparse.Namespace) -> CaseReport:
    record = stored.record
    baseline = read_baseline(arguments.baseline, is_in_place=False)
    measurement = measure_stored(stored, framework=_framework(stored.plan))
    policy = _policy(record.terms, texts=arguments.tolerance, max_runs=arguments.max_runs)
    verdict = judge(measurement, baseline=baseline, machine=record.machine, policy=policy)
    waiver = _waiver_effect(verdict, record=record)
    return CaseReport(
        result=CaseResult(
            nodeid="",
            measurement=measurement,
            verdict=verdict,
            plan=stored.plan,
            baseline_path=str(arguments.baseline),
            is_failure=waiver.is_expired or (verdict.kind in record.fail_on and not waiver.waived),
            waived=waiver.waived,
            waiver_note=waiver.note,
            has_expired_waiver=waiver.is_expired,
            run_dir=os.path.commonpath(stored.run_dirs),
        ),
        baseline=baseline,
        environment={**record.provenance.environment(), **measurement.environment},
    )


def _waiver_effect(verdict: Verdict, *, record: CaseRecord) -> WaiverEffect:
    """Return the effect of the test's waiver on the verdict, on the day of the session."""
    if not record.waiver:
        return WaiverEffect()
    waiver = parse_waiver(record.waiver, subject=f"{CASE_FILE} of {record.case}: waiver")
    try:
        day = datetime.fromisoformat(record.provenance.date).astimezone(UTC).date()
    except ValueError as exc:
        raise RecordError(f"{CASE_FILE} of {record.case}: provenance.date: {exc}; copy the file again") from None
    return apply_waiver(verdict, waiver=waiver, today=day, release=record.release)


def _policy(policy: VerdictPolicy, *, texts: Sequence[str], max_runs: int | None) -> VerdictPolicy:
    layered = with_layer(policy, tolerances=parse_tolerances(texts, subject="--tolerance"))
    return replace(layered, max_runs=max_runs or policy.max_runs)


def _framework(plan: Plan) -> Framework:
    frameworks = builtin_frameworks()
    if plan.framework not in frameworks:
        raise PlanError(
            f"framework {plan.framework!r} is registered by a pytest plugin, which alone can read its records; "
            "use pytest -m perf --perf-replay=DIR"
        )
    return frameworks[plan.framework]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number >= 1: a verdict needs at least one launch")
    return int(text)
