"""Stages of a case in a session: planned, then measured; a judged case is a CaseReport."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from pytest_nemoperf.ab.comparison import ABResult
from pytest_nemoperf.baselines.store import StoredBaseline
from pytest_nemoperf.errors import NemoPerfError, count_text, error_line, in_one_line
from pytest_nemoperf.frameworks.protocol import Framework
from pytest_nemoperf.measure.measurement import Measurement, Run
from pytest_nemoperf.options.markers import PerfMark
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.provenance import Provenance
from pytest_nemoperf.report.cells import figures_text
from pytest_nemoperf.results.cases import Confirmation
from pytest_nemoperf.verdict.judge import Verdict
from pytest_nemoperf.verdict.policy import VerdictPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCase:
    """A recipe resolved for the session's system, with the policy it is judged by.

    Attributes:
        mark: Markers of the test that asks for the case.
        plan: Workload, layout and steps of one launch.
        framework: Adapter to the training framework that runs the plan.
        num_runs: Launches that make a baseline.
        policy: Tolerances and error rates.
    """

    mark: PerfMark
    plan: Plan
    framework: Framework
    num_runs: int
    policy: VerdictPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCase:
    """A case with its measurement and the baseline it is judged against.

    Attributes:
        mark: Markers of the test that asks for the case.
        measurement: Numbers of the runs.
        machine: Key of the machine the runs were on.
        provenance: Date, commit, versions and command of the runs.
        policy: Tolerances and error rates.
        found: Stored baseline that applies to the runs.
        plan: Plan of the runs; None for a loop or benchmark of the test process.
        run_dir: Directory of the runs; None for a loop or benchmark of the test process.
        verdict: Verdict that ended the launches; None if the measurement is still to be judged.
        ab: Comparison of two revisions that the verdict rests on; None for one with a baseline.
        confirmations: Comparisons of what the baseline did not clear with the commits of its runs.
        is_same_code: Code, environment and recipe are those of the newest baseline.
        is_storable: The runs are of this machine and of the code as it is, so that they may be stored.
    """

    mark: PerfMark
    measurement: Measurement
    machine: Mapping[str, str | int]
    provenance: Provenance
    policy: VerdictPolicy
    found: StoredBaseline
    plan: Plan | None = None
    run_dir: Path | None = None
    verdict: Verdict | None = None
    ab: ABResult | None = None
    confirmations: tuple[Confirmation, ...] = ()
    is_same_code: bool = False
    is_storable: bool = True


class CaseLauncher(Protocol):
    """Provides the runs of a planned case: launched here, stored by an earlier session, or of two revisions."""

    def measure(self, case: PlannedCase) -> MeasuredCase:
        """Return the case with its measurement.

        Args:
            case: Case to run.

        Raises:
            BaselineError: If a stored baseline can't be trusted; nothing is launched then.
            LaunchError: If ranks failed, hung or were killed.
            RecordError: If stored runs can't be trusted, or new ones can't be stored.
            RevisionError: If another revision can't be checked out, set up or kept apart from the working tree.
            UnsupportedError: If no runs of the case are stored that could be judged again.
        """
        ...


def not_judged_text(runs: Sequence[Run], *, reason: str) -> str:
    """Return the reason of an INVALID case of sound runs: their figures, and the reason that they got no verdict."""
    return f"{measured_text(runs)} and not judged: {reason}"


def ending_text(error: BaseException) -> str:
    """Return the end of a clause on a measurement that an error ended: ``failed: ...``, ``was interrupted``."""
    if isinstance(error, NemoPerfError):
        return f"failed: {in_one_line(error)}"
    if isinstance(error, KeyboardInterrupt):
        return "was interrupted"
    if isinstance(error, pytest.exit.Exception):
        return f"was ended by {error}"
    return f"was ended by {error_line(error)}"


def measured_text(runs: Sequence[Run]) -> str:
    """Return the figures of runs that got no verdict, as a clause: ``3 runs were measured (2,560 tokens/sec/GPU)``."""
    verb = "was" if len(runs) == 1 else "were"
    return f"{count_text(len(runs), 'run')} {verb} measured ({figures_text(runs)})"
