"""Comparisons with another revision in one perf session: checkout, rounds until a verdict, and what is left of them."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_nemoperf import machine
from pytest_nemoperf.abpaths import check_entries, check_installed, check_modules, is_unchanged, usual_paths
from pytest_nemoperf.abplan import DEFAULT_BLOCK_STEPS, unsuited_to_turns
from pytest_nemoperf.abrun import ABRunner, NoTurnsError
from pytest_nemoperf.abseries import SIDES, ABRounds
from pytest_nemoperf.abtest import MIN_ROUNDS, ABResult, judge_rounds
from pytest_nemoperf.abtrees import read_trees
from pytest_nemoperf.comparison import VerdictKind, VerdictPolicy
from pytest_nemoperf.errors import RevisionError, UnsupportedError
from pytest_nemoperf.measure import Measurement
from pytest_nemoperf.report.ab import render_round_line
from pytest_nemoperf.results import CaseReport, CaseResult
from pytest_nemoperf.settings import Settings
from pytest_nemoperf.worktree import SIDE_VARIABLE, ABSide, Revision, Worktree, find_revision, set_up

if TYPE_CHECKING:
    from pytest_nemoperf.frameworks.protocol import Framework
    from pytest_nemoperf.progress import Progress
    from pytest_nemoperf.recipe import Plan
    from pytest_nemoperf.settings import ABOptions
    from pytest_nemoperf.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class ABCase:
    """One case on two sides.

    Attributes:
        plan: How the case runs by itself.
        new: What was measured of the working tree.
        verdict: On the ratio.
        result: How it came about, the old side's measurement included.
    """

    plan: Plan
    new: Measurement
    verdict: Verdict
    result: ABResult


class ABSession:
    """Checks out the other revision when it is first needed, and compares cases.

    Args:
        against: What --perf-ab and its ini keys say.
        settings: Of the session.
        root: Root directory of the working tree.

    Raises:
        RevisionError: If there is no such revision, or it has the very files of the working tree.
    """

    def __init__(self, against: ABOptions, *, settings: Settings, root: Path) -> None:
        self.revision = find_revision(against.revision, root=root)
        self.caution = _equal_sides(self.revision, against=against, settings=settings, root=root)
        self._against, self._settings, self._root = against, settings, root
        self._worktree = Worktree(self.revision, parent=settings.state_dir / "ab")
        self._contest: ABRunner | None = None
        self._compared: dict[str, ABCase] = {}
        self._said: set[str] = set()

    def run(
        self, plan: Plan, *, framework: Framework, policy: VerdictPolicy, folder: Path, progress: Progress
    ) -> Measurement:
        """Run rounds of a plan until there is a verdict or no time for another round.

        Args:
            plan: Of a run by itself.
            framework: Who trains it.
            policy: Tolerances and error rates.
            folder: Takes a folder for each round.
            progress: Shows what goes on.

        Returns:
            What was measured of the working tree; report has the rest.

        Raises:
            RevisionError: If the revision can't be checked out, set up or kept apart from the working tree.
            LaunchError: If a side failed; the text names it.
            RecordError: If a side left an impossible record.
        """
        contest = self._contest or self._prepare(progress)
        series = self._series(plan, progress=progress)
        labels = (contest.sides["old"].label, contest.sides["new"].label)
        while True:
            max_rounds = series.max_rounds(limit_sec=self._against.limit_sec)
            number, started = len(series.rounds) + 1, time.monotonic()
            with progress.run(plan, number=number, num_runs=max(max_rounds, number)):
                try:
                    self._add_round(series, contest=contest, framework=framework, folder=folder, progress=progress)
                except NoTurnsError as exc:
                    self._say_launches(plan.case, why=str(exc), progress=progress)
                    series.why_launches, series.lost_sec = str(exc), time.monotonic() - started
                    continue
            self._say_shared(contest, progress=progress)
            max_rounds = series.max_rounds(limit_sec=self._against.limit_sec)
            old, new = (series.measured(name) for name in SIDES)
            progress.finished(_line(series, old=old, new=new, took_sec=time.monotonic() - started))
            verdict = judge_rounds(
                old, new, rounds=series.rounds, policy=policy, max_rounds=max(max_rounds, MIN_ROUNDS), labels=labels
            )
            if verdict.kind is not VerdictKind.INCONCLUSIVE or series.num_counted >= max_rounds:
                result = series.result(self._against.revision, labels=labels, old=old)
                self._compared[plan.case] = ABCase(plan=plan, new=new, verdict=verdict, result=result)
                return new

    def report(
        self,
        measurement: Measurement,
        *,
        nodeid: str,
        run_dir: str,
        rerun_command: str,
        environment: Mapping[str, str],
    ) -> CaseReport:
        """Return the report of a case on two sides; nothing of it is ever stored.

        Args:
            measurement: As run returned it.
            nodeid: The test that asks.
            run_dir: Where the rounds are.
            rerun_command: Shell command that runs just this case again.
            environment: Of this process.

        Raises:
            UnsupportedError: If it was not measured on two sides.
        """
        compared = self._compared.get(measurement.case)
        if compared is None:
            raise UnsupportedError(
                f"{measurement.case} was measured in this process, where code can't be swapped; "
                "leave it out of a session with --perf-ab"
            )
        result = CaseResult(
            nodeid=nodeid,
            measurement=compared.new,
            verdict=compared.verdict,
            plan=compared.plan,
            is_failure=compared.verdict.kind in self._settings.fail_on,
            run_dir=run_dir,
            ab=compared.result,
        )
        return CaseReport(
            result=result,
            rerun_command=rerun_command,
            environment={**environment, **compared.new.environment},
        )

    @property
    def revision_text(self) -> str:
        """The other version as it was asked for, and its commit."""
        return self.revision.label

    @property
    def options(self) -> list[str]:
        """The options that ask for this comparison, but for a delay."""
        is_equal = self._against.is_self_test and not self._settings.inject_pct
        return [f"--perf-ab={self.revision.name}", *(["--perf-inject=0"] if is_equal else [])]

    def close(self) -> None:
        """Stop every process and remove the checkout; may be called twice."""
        contest, self._contest = self._contest, None
        if contest is not None:
            contest.close()
        self._worktree.remove()

    def _prepare(self, progress: Progress) -> ABRunner:
        paths, repository = self._against.paths, self.revision.repository
        check_entries(paths, project=self._root, repository=repository)
        progress.say(f"checking out {self.revision.label}, for --perf-ab")
        checkout = self._worktree.add()
        old_root = checkout / self._root.resolve().relative_to(repository.resolve())
        old = ABSide(name="old", origin=self.revision.label, root=old_root, paths=paths or usual_paths(old_root))
        new = ABSide(name="new", origin="working tree", root=self._root, paths=paths or usual_paths(self._root))
        if self._against.setup:
            for side in (old, new):
                progress.say(f"setting up {side.label}: {self._against.setup}")
                set_up(side, command=self._against.setup, project=self._root)
        for side in (old, new):
            check_modules(side, is_guess=not paths)
        check_installed(new.paths, project=self._root, repository=repository)
        trees = read_trees(self.revision, checkout=checkout, state_dir=self._settings.state_dir)
        self._contest = ABRunner(old, new, trees=trees)
        return self._contest

    def _series(self, plan: Plan, *, progress: Progress) -> ABRounds:
        why_launches = unsuited_to_turns(
            plan,
            host_memory_bytes=machine.host_memory_bytes(),
            gpu_memory_bytes=min(self._settings.devices.memory_bytes) if plan.device == "cuda" else None,
        )
        if why_launches:
            self._say_launches(plan.case, why=why_launches, progress=progress)
        return ABRounds(plan, seed=random.SystemRandom().randrange(2**32), why_launches=why_launches)

    def _say_launches(self, case: str, *, why: str, progress: Progress) -> None:
        """Say why ranks take no turns, once for all cases with that reason."""
        if why not in self._said:
            self._said.add(why)
            progress.say(f"{case}: whole launches alternate: {why} (said once a session)")

    def _say_shared(self, contest: ABRunner, *, progress: Progress) -> None:
        """Say once of each file or folder that it is no part of either version."""
        shared = [path for path in contest.shared() if path not in self._said]
        if shared:
            self._said.update(shared)
            progress.say(f"both sides use what git does not have: {', '.join(shared)}")

    def _add_round(
        self, series: ABRounds, *, contest: ABRunner, framework: Framework, folder: Path, progress: Progress
    ) -> None:
        plans = {"old": replace(series.plan, inject_pct=0.0), "new": series.plan}
        started, first = time.monotonic(), series.next_first()
        run_dir = folder / f"round-{len(series.rounds) + 1}"
        if series.why_launches is None:
            found = contest.by_turns(
                plans,
                framework=framework,
                run_dir=run_dir,
                first=first,
                block_steps=DEFAULT_BLOCK_STEPS,
                on_progress=progress.step,
            )
        else:
            found = contest.one_after_the_other(
                plans, framework=framework, run_dir=run_dir, first=first, on_progress=progress.step
            )
        series.add(found, took_sec=time.monotonic() - started)


def _equal_sides(revision: Revision, *, against: ABOptions, settings: Settings, root: Path) -> str:
    """Return a caution about two sides that have the same files in git; empty if they differ.

    Raises:
        RevisionError: If nothing else can make them differ, and no self-test wants them equal.
    """
    paths = against.paths or usual_paths(root)
    if not is_unchanged(revision, paths=paths, project=root, state_dir=settings.state_dir):
        return ""
    same = f"old and new are the same files: {revision.label} is what the working tree holds"
    if against.is_self_test:
        return f"{same}, as --perf-inject may have it; no verdict of this session speaks of a change"
    if SIDE_VARIABLE in against.setup:
        return f"{same}; they differ only by what perf_ab_setup makes of {SIDE_VARIABLE}"
    raise RevisionError(
        f"--perf-ab={revision.name}: {same}, and nothing is changed, so that every case would pass as equal to itself; "
        f"name an older revision, such as {revision.name}~1, or test this machine's noise on equal sides by "
        "--perf-inject=0"
    )


def open_ab_session(settings: Settings, *, root: Path) -> ABSession | None:
    """Return what compares with another revision, if that is asked for.

    Args:
        settings: Of the session.
        root: Root directory of the working tree.

    Raises:
        pytest.UsageError: If there is no such revision, or it has the very files of the working tree.
    """
    if settings.against is None:
        return None
    try:
        return ABSession(settings.against, settings=settings, root=root)
    except RevisionError as exc:
        raise pytest.UsageError(str(exc)) from None


def _line(series: ABRounds, *, old: Measurement, new: Measurement, took_sec: float) -> str:
    return render_round_line(
        case=series.plan.case,
        number=len(series.rounds),
        round_=series.rounds[-1],
        old=old.runs[-1:],
        new=new.runs[-1:],
        elapsed_sec=took_sec,
        inject_pct=series.plan.inject_pct,
    )
