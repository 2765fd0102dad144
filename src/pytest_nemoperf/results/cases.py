"""Results of a session, as the JSON results file holds them and the reports show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from pytest_nemoperf.ab.comparison import ABResult
from pytest_nemoperf.baselines.baseline import Baseline, PublishedSource
from pytest_nemoperf.measure.measurement import Measurement
from pytest_nemoperf.recipes.recipe import Plan
from pytest_nemoperf.records.profile import CaseProfile
from pytest_nemoperf.records.provenance import LogSource, Provenance
from pytest_nemoperf.results.ceilings import AtCeiling
from pytest_nemoperf.results.framework_figures import FrameworkComparison
from pytest_nemoperf.verdict.comparison import Comparison, VerdictKind
from pytest_nemoperf.verdict.judge import Verdict

_SCHEMA_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """Comparison of a suspect with the commit of its baseline, or of that baseline's anchor, side by side.

    Attributes:
        commit: Short hash of that commit; empty if the stored runs name none.
        anchor: Name of the anchor; empty for the newest baseline.
        kind: Verdict of the rounds; None if there were none.
        comparisons: Metrics of the working tree beside that commit.
        is_same_code: No rounds were needed: code, environment and recipe are those of the stored runs.
        differences: Changes of the environment since the stored runs that may change speed.
        problem: Reason that nothing was compared; empty if it was, or if it was not needed.
        ab: Rounds and method; None without rounds by ranks.
        duration_sec: Time it took.
    """

    commit: str
    anchor: str = ""
    kind: VerdictKind | None = None
    comparisons: tuple[Comparison, ...] = ()
    is_same_code: bool = False
    differences: tuple[str, ...] = ()
    problem: str = ""
    ab: ABResult | None = None
    duration_sec: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """One judged case.

    Attributes:
        nodeid: Test that asked for it.
        measurement: This session's runs.
        verdict: Outcome.
        plan: Plan it ran by; None for a pytest-benchmark test or a loop measured in-process.
        baseline_path: File it was judged against, or address of the published page; empty if there was none.
        published: Page it was judged by; None for a stored baseline, or none.
        is_judged_locally: baseline_path is in this machine's own store, because no committed one was comparable.
        stored_path: Baseline file written; empty if none was.
        is_stored_locally: stored_path is in this machine's own store, not among the committed ones.
        storing_note: Reason why the case was stored or not; empty if there is nothing to explain.
        accepted_reason: Reason for accepting a regression; empty if none was accepted.
        is_failure: The test fails, for this verdict or for a waiver that expired.
        waived: Date and reason if a waiver lets a loss pass: ``waived until 2026-12-31: reason``; else empty.
        waiver_note: Advice on the test's waiver; empty for none.
        has_expired_waiver: The test fails for an expired waiver, with any verdict.
        run_dir: Folder of the ranks' records and logs; empty for a measurement in-process, and for logs.
        logs: Log of each run, in their order; empty for runs of a session.
        ab: Comparison with another revision; None if it was judged against a baseline.
        confirmations: Comparisons of what the baseline did not clear with the commits of its runs.
        earlier_verdicts: Verdicts of earlier attempts of the test in this session, by pytest-rerunfailures.
        ceiling: Nearness to the ceilings of this machine; None for a case without model FLOPs.
    """

    nodeid: str
    measurement: Measurement
    verdict: Verdict
    plan: Plan | None = None
    baseline_path: str = ""
    published: PublishedSource | None = None
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
    logs: tuple[LogSource, ...] = ()
    ab: ABResult | None = None
    confirmations: tuple[Confirmation, ...] = ()
    earlier_verdicts: tuple[VerdictKind, ...] = ()
    ceiling: AtCeiling | None = None

    @property
    def had_other_verdicts(self) -> bool:
        """An earlier attempt of the test came to another verdict."""
        return any(kind is not self.verdict.kind for kind in self.earlier_verdicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class NotRun:
    """A perf test that measured nothing, with the reason."""

    nodeid: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """Outcome of --perf-prune.

    Attributes:
        deleted: Files of baselines and profiles that no test asks for.
        why_not: Reasons why nothing was deleted; empty if all cases the tests ask for are known.
    """

    deleted: tuple[str, ...] = ()
    why_not: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unasked:
    """Stored baselines that no test asks for, as renamed cases and lost tests leave behind.

    Attributes:
        missing: Cases without a committed baseline.
        stored: Baseline files that no test asks for; if not the whole suite was seen, only those in ``renamed``.
        renamed: Stored case by missing case, if the two have the same workload but for the model's name.
        gaps: Reasons why a test that was not seen may ask for the files; empty if the whole suite was seen.
        is_failure: The session fails for this (ini ``perf_fail_on_unasked``).
    """

    missing: tuple[str, ...]
    stored: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()
    is_failure: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResults:
    """The results file, complete enough to judge again or to print a page.

    Attributes:
        system: System name.
        system_title: Title on pages.
        machine: Key of this machine.
        provenance: Date, commit, versions, device and command.
        git_problem: git's error if commit or changes are unknown; else empty.
        cases: Judged cases in the order they ran.
        not_run: Perf tests that measured nothing.
        why_none: Reason why no case was judged; empty if one was.
        pruned: Outcome of --perf-prune; None without it.
        unasked: Stored baselines that no test asks for; None if there are none.
        by_framework: Recipes that several frameworks ran, side by side.
        inject_pct: Self-test delay of the whole session in percent; 0 for a real one.
        duration_sec: Wall time of the session.
        replay_of: Folder of the stored runs that were judged again, with their machine and provenance; empty if runs
            were launched.
        against: Figures the cases were judged by: stored baselines, or the rows of published pages.
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
    by_framework: tuple[FrameworkComparison, ...] = ()
    inject_pct: float = 0.0
    duration_sec: float = 0.0
    replay_of: str = ""
    git_problem: str = ""
    against: Literal["baselines", "published"] = "baselines"
    schema_version: Literal[1] = _SCHEMA_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseReport:
    """A result with its baseline and commands, as reports show it.

    Attributes:
        result: The judged case.
        baseline: Baseline it was judged against, or None.
        stored: Baseline that is written at the end of the test, or None.
        replaced: Baseline that an update replaced, or None.
        stored_profile: File of the profile that was stored with the baseline; empty if none was.
        rerun_command: Shell command that runs just this case again.
        accept_command: Shell command that stores it in spite of its verdict.
        environment: Environment now, to be compared with the baseline's.
        profile: Profiles of --perf-profile; None without it, or if the verdict does not call for one.
        new_profile: Profile that is stored with the baseline at the end of the test, or None.
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
