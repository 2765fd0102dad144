"""``nemoperf record``: a baseline made of stored runs, or of logs of jobs that no session started."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_nemoperf.baselines.baseline import Baseline, find_mismatches, from_measurement
from pytest_nemoperf.baselines.store import BaselineStore, StoredBaseline
from pytest_nemoperf.cli.baselines_folder import baselines_dir
from pytest_nemoperf.cli.given import GivenCase, add_given_options, given_case
from pytest_nemoperf.cli.judge import machine_notes, print_case, verdict_on
from pytest_nemoperf.cli.terminal import has_color, terminal_width, write
from pytest_nemoperf.errors import BaselineError, RecordError
from pytest_nemoperf.report.console import to_text, whole_lines
from pytest_nemoperf.report.stored import stored_parts
from pytest_nemoperf.report.terminal.logs import log_parts
from pytest_nemoperf.results.cases import CaseReport, CaseResult
from pytest_nemoperf.runs.storing import BaselineWriter, StoreOutcome
from pytest_nemoperf.verdict.comparison import NEEDS_ACCEPTANCE, VerdictKind
from pytest_nemoperf.verdict.defaults import DEFAULT_RUNS
from pytest_nemoperf.verdict.judge import Verdict
from pytest_nemoperf.verdict.updates import UpdateOptions

if TYPE_CHECKING:
    from rich.console import RenderableType

_EPILOG = """\
examples:
  nemoperf record --log mon.log tue.log wed.log --log-format megatron \\
      --recipe recipe.json --system h100
  nemoperf record --log thu.log --log-format megatron --recipe recipe.json \\
      --add-session
  nemoperf record --log *.log --log-format megatron --recipe recipe.json \\
      --accept-regression --reason "the new tokenizer costs 4%"
  nemoperf record --baselines baselines .nemoperf/runs/20261123-101500/CASE

A stored baseline is judged against first, by the rules of --update-baselines:
a loss is stored only if it is accepted with a reason, an INVALID case never.

exit code:
  0 if a baseline was written, or the stored one stays since nothing moved
  1 if the runs are INVALID, may hide a loss that is not accepted, or are not
    added as a session
  2 if an option is wrong, or a file can't be trusted
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the command's options, its examples and exit codes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    add_given_options(parser)
    stored = parser.add_argument_group("what to store, and where")
    stored.add_argument(
        "--baselines",
        type=Path,
        metavar="DIR",
        help="folder of the baselines: <system>/<case>.json in it is written (default: baselines)",
    )
    stored.add_argument("--reason", default="", metavar="TEXT", help="why they are the baseline; kept in the file")
    stored.add_argument(
        "--accept-regression", action="store_true", help="store REGRESSED and INCONCLUSIVE runs too; needs --reason"
    )
    stored.add_argument(
        "--add-session", action="store_true", help="store the runs beside the stored ones, as of another session"
    )
    stored.add_argument("--anchor", default="", metavar="RELEASE", help="make these runs the anchor, under that name")
    stored.add_argument("--json", action="store_true", help="print the case as results.json has it")


def run(arguments: argparse.Namespace) -> int:
    """Make a baseline of given runs and print its file and figures; return the exit code.

    Raises:
        NemoPerfError: If a file can't be trusted, runs do not belong together, or the baseline can't be written.
    """
    updating = _updating(arguments)
    folder = baselines_dir(arguments.baselines, is_made=True)
    case = given_case(arguments)
    store = BaselineStore(
        committed_dir=folder, local_dir=folder, system=case.plan.system, machine=case.machine, is_updating=True
    )
    old = store.find_committed(case.plan.case)
    path = store.committed_path(case.plan.case)
    if old is not None and case.logs:
        _check_place(old, case=case, path=path)
    verdict = verdict_on(case, baseline=old, looked_in=str(folder))
    outcome = _choose(case, verdict=verdict, old=old, store=store, updating=updating)
    if outcome.stored is not None:
        store.update(outcome.stored)
    refused_kinds = {*NEEDS_ACCEPTANCE, VerdictKind.INVALID}
    is_refused = outcome.stored is None and (updating.adds_session or verdict.kind in refused_kinds)
    report = CaseReport(
        result=CaseResult(
            nodeid="",
            measurement=case.measurement,
            verdict=verdict,
            plan=case.plan,
            baseline_path=str(path) if old is not None else "",
            stored_path=outcome.path,
            storing_note=outcome.note,
            accepted_reason=outcome.accepted_reason,
            is_failure=is_refused,
            run_dir=case.run_dir,
            logs=case.logs,
        ),
        baseline=old,
        stored=outcome.stored,
        replaced=outcome.replaced,
        environment={**case.provenance.environment(), **case.measurement.environment},
    )
    _print(report, is_json=arguments.json)
    return int(is_refused)


def _updating(arguments: argparse.Namespace) -> UpdateOptions:
    reason = arguments.reason.strip()
    if arguments.accept_regression and not reason:
        raise RecordError("--accept-regression needs --reason=TEXT: say why the loss is acceptable")
    if arguments.accept_regression and arguments.add_session:
        raise RecordError(
            "--add-session with --accept-regression: a loss is no further session of the same speed; drop one of them"
        )
    if arguments.anchor and arguments.add_session:
        raise RecordError("--add-session with --anchor: added runs don't become the anchor; drop one of them")
    return UpdateOptions(
        is_accepted=arguments.accept_regression,
        reason=reason or "nemoperf record",
        anchor=arguments.anchor,
        adds_session=arguments.add_session,
    )


def _check_place(old: Baseline, *, case: GivenCase, path: Path) -> None:
    """Check that logs don't replace a session's baseline unjudged.

    Raises:
        BaselineError: If they would.
    """
    mismatches = find_mismatches(old, machine=case.machine, workload=case.measurement.workload)
    if not mismatches or old.provenance.source:
        return
    remedies = [*machine_notes(case, baseline=old), "or give the recipe a variant, or another --baselines"]
    raise BaselineError(
        f"{path}: a session measured it, and logs that don't compare with it would take its place unjudged: "
        f"{'; '.join(mismatch.text for mismatch in mismatches)}; {', '.join(remedies).removeprefix('or ')}"
    )


def _choose(
    case: GivenCase, *, verdict: Verdict, old: Baseline | None, store: BaselineStore, updating: UpdateOptions
) -> StoreOutcome:
    """Return the baseline that the runs leave, by the rules of ``--update-baselines``."""
    if verdict.kind is VerdictKind.INVALID:
        return StoreOutcome(note="an INVALID case is never stored")
    new = from_measurement(case.measurement, machine=case.machine, provenance=case.provenance, reason="")
    if updating.adds_session and old is not None:
        _check_is_new(new, old=old, case=case)
    path = str(store.committed_path(case.plan.case)) if old is not None else ""
    is_comparable = old is not None and not find_mismatches(old, machine=new.machine, workload=new.workload)
    return BaselineWriter(store, runs=DEFAULT_RUNS, updating=updating).choose(
        new,
        verdict=verdict,
        found=StoredBaseline(baseline=old, path=path, is_comparable=is_comparable),
        policy=case.policy,
        is_in_process=False,
        is_same_code=old is not None and _is_same_code(case, old=old),
    )


def _check_is_new(new: Baseline, *, old: Baseline, case: GivenCase) -> None:
    """Check that no run is stored already: twice the same run would count as evidence twice.

    Raises:
        BaselineError: If one is.
    """
    for number, run in enumerate(new.runs):
        for place, stored in enumerate(old.runs, start=1):
            if replace(run, session="") == replace(stored, session=""):
                name = case.logs[number].path if case.logs else f"run {number + 1}"
                raise BaselineError(f"--add-session: {name} is run {place} of the baseline already; leave it out")


def _is_same_code(case: GivenCase, *, old: Baseline) -> bool:
    """Return whether runs are of the very commit of the baseline, and nothing known of both differs that was set."""
    origin = case.provenance
    if origin.git_commit is None or origin.git_commit != old.provenance.git_commit:
        return False
    if origin.git_dirty or old.provenance.git_dirty:
        return False
    then = {**old.provenance.versions, **old.environment}
    now = {**origin.versions, **case.measurement.environment}
    return all(then[name] == now[name] for name in then.keys() & now.keys())


def _print(report: CaseReport, *, is_json: bool) -> None:
    """Print the written baseline, or the verdict that kept it from being written."""
    if is_json or report.stored is None:
        print_case(report, is_json=is_json)
    if not is_json:
        text = to_text(_parts(report), width=terminal_width(), color=has_color())
        write(f"{text}\n")


def _parts(report: CaseReport) -> Iterator[RenderableType]:
    if report.stored is not None:
        verdict = report.result.verdict
        yield whole_lines([(f"{verdict.case}\n", "bold")])  # never folded, so that it can be copied
        yield from (f"{verdict.kind}: {reason}" for reason in verdict.reasons)
        yield from log_parts(report.result)
    yield from stored_parts([report])
