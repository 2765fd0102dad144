"""What a session found, as the JSON results file holds it and as every report shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pytest_nemoperf.abtest import ABResult
from pytest_nemoperf.baseline import Baseline
from pytest_nemoperf.comparison import VerdictKind
from pytest_nemoperf.measure import Measurement
from pytest_nemoperf.profiles import CaseProfile
from pytest_nemoperf.provenance import Provenance
from pytest_nemoperf.recipe import Plan
from pytest_nemoperf.verdict import Verdict

RESULTS_SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One judged case.

    Attributes:
        nodeid: The test that asked for it.
        measurement: This session's runs.
        verdict: The outcome.
        plan: How it ran; None for a pytest-benchmark test or a loop measured in-process.
        baseline_path: File it was judged against; empty if there was none.
        is_judged_locally: That file is in this machine's own store: nothing committed could be compared.
        stored_path: Baseline file written; empty if none was.
        is_stored_locally: That file is in this machine's own store, not among the committed ones.
        storing_note: Why the case was stored or not; empty where that needs no words.
        accepted_reason: Why a regression was accepted; empty if none was.
        is_failure: The test fails, for this verdict or for a waiver that expired.
        waived: Until when and why a loss passes: ``waived until 2026-12-31: reason``; empty where none does.
        waiver_note: What is to be done about the test's waiver; empty for nothing.
        has_expired_waiver: The test fails for that, whatever the verdict.
        run_dir: Where the ranks' records and logs are; empty for what ran in-process.
        ab: How it was compared with another revision; None if it was judged against a baseline.
        earlier_verdicts: Of earlier attempts of the test in this session, as pytest-rerunfailures makes them.
    """

    nodeid: str
    measurement: Measurement
    verdict: Verdict
    plan: Plan | None = None
    baseline_path: str = ""
    is_judged_locally: bool = False
    stored_path: str = ""
    is_stored_locally: bool = False
    storing_note: str = ""
    accepted_reason: str = ""
    is_failure: bool = False
    waived: str = ""
    waiver_note: str = ""
    has_expired_waiver: bool = False
    run_dir: str = ""
    ab: ABResult | None = None
    earlier_verdicts: tuple[VerdictKind, ...] = ()

    @property
    def had_other_verdicts(self) -> bool:
        """An earlier attempt of the test came to another verdict."""
        return any(kind is not self.verdict.kind for kind in self.earlier_verdicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotRun:
    """A perf test that measured nothing, and why."""

    nodeid: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What --perf-prune did.

    Attributes:
        deleted: Baseline files, and profiles, that no test asks for.
        why_not: Why nothing was deleted; empty if it is known which cases the tests ask for.
    """

    deleted: tuple[str, ...] = ()
    why_not: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unasked:
    """Stored baselines that no test asks for: a case that is renamed, or a test that is lost, leaves its own behind.

    Attributes:
        missing: Cases without a committed baseline.
        stored: Baseline files that no test asks for; where not the whole suite was seen, only those in ``renamed``.
        renamed: Stored case by missing case, where the two have the same workload but for the model's name.
        gaps: Why a test that was not seen may ask for the files; empty if the whole suite was seen.
        is_failure: The session fails for this (ini ``perf_fail_on_unasked``).
    """

    missing: tuple[str, ...]
    stored: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()
    is_failure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResults:
    """The results file: everything a later session needs to judge again or to print a page.

    Attributes:
        system: System name.
        system_title: As pages print it.
        machine: Key of this machine.
        provenance: When, from which commit, with which versions, on which device, by which command.
        git_problem: git's reason for not telling the commit or its changes; empty if it could.
        cases: Judged cases in the order they ran.
        not_run: Perf tests that measured nothing.
        why_none: Why no case was judged; empty if one was.
        pruned: What --perf-prune did; None without it.
        unasked: Stored baselines that may be those of cases without one; None if there are none.
        inject_pct: Self-test delay of the whole session; 0 for a real one.
        duration_sec: Wall time of the session.
        replay_of: Folder of the stored runs that were judged again, from which machine and provenance are; empty where
            runs were launched.
    """

    system: str
    system_title: str
    machine: Mapping[str, str | int]
    provenance: Provenance
    cases: tuple[CaseResult, ...]
    not_run: tuple[NotRun, ...] = ()
    why_none: str = ""
    pruned: Pruned | None = None
    unasked: Unasked | None = None
    inject_pct: float = 0.0
    duration_sec: float = 0.0
    replay_of: str = ""
    git_problem: str = ""
    schema_version: Literal[1] = RESULTS_SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseReport:
    """A result with what it was compared with, for people to read.

    Attributes:
        result: The judged case.
        baseline: What it was judged against, or None.
        stored: The baseline that is written when the test has come to its end, or None.
        replaced: The baseline an update replaced, or None.
        stored_profile: File of the profile that was stored with the baseline; empty if none was.
        rerun_command: Shell command that runs just this case again.
        accept_command: Shell command that stores it in spite of its verdict.
        environment: Environment now, to tell what changed since the baseline.
        profile: What --perf-profile found out; None where it was not asked for or not due.
        new_profile: What is stored with the baseline when the test has come to its end, or None.
    """

    result: CaseResult
    baseline: Baseline | None = None
    stored: Baseline | None = None
    replaced: Baseline | None = None
    stored_profile: str = ""
    rerun_command: str = ""
    accept_command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    profile: CaseProfile | None = None
    new_profile: CaseProfile | None = None
