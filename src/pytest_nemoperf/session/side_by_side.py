"""Two versions of the code under test, compared in rounds: a revision that is checked out, and the working tree."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_nemoperf.ab.comparison import MAX_ROUNDS, MIN_ROUNDS, ABResult, judge_rounds
from pytest_nemoperf.ab.import_paths import check_entries, check_installed, check_modules, default_paths
from pytest_nemoperf.ab.in_process import ABTestProcesses, InProcessRounds
from pytest_nemoperf.ab.plan import DEFAULT_BLOCK_STEPS, unsuited_to_turns
from pytest_nemoperf.ab.round import ABRunner, NoTurnsError
from pytest_nemoperf.ab.series import ABRounds
from pytest_nemoperf.ab.source_trees import ABTrees, read_trees
from pytest_nemoperf.ab.worktree import ABSide, Revision, Worktree, set_up
from pytest_nemoperf.machine import identity
from pytest_nemoperf.measure.measurement import Measurement
from pytest_nemoperf.report.terminal.ab import render_round_line
from pytest_nemoperf.session.cases import MeasuredCase, PlannedCase
from pytest_nemoperf.verdict.comparison import VerdictKind

if TYPE_CHECKING:
    from pytest_nemoperf.ab.pytest_process import PytestInvocation
    from pytest_nemoperf.options.settings import SideOptions
    from pytest_nemoperf.recipes.recipe import Plan
    from pytest_nemoperf.records.metrics import Metric
    from pytest_nemoperf.session.context import Context
    from pytest_nemoperf.session.progress import Progress
    from pytest_nemoperf.verdict.judge import Verdict
    from pytest_nemoperf.verdict.policy import VerdictPolicy


_LEAST_LIMIT_SEC = 5.0  # of a side that runs: what a pytest process needs to start


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsCompared:
    """A case compared in rounds.

    Attributes:
        verdict: Verdict on the working tree beside the revision.
        new: Measurement of the working tree in the rounds that count.
        ab: Rounds and method.
    """

    verdict: Verdict
    new: Measurement
    ab: ABResult


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A case that is to be compared, with its limits.

    Attributes:
        case: Case id.
        policy: Tolerances and error rates.
        limit_sec: Time the case may take.
        most_rounds: Rounds that count, at most.
        inject_pct: Self-test delay of the working tree, percent.
        phases: Metrics of phases that are judged too.
    """

    case: str
    policy: VerdictPolicy
    limit_sec: float
    most_rounds: int
    inject_pct: float
    phases: tuple[Metric, ...] = ()


class SideBySide:
    """Checks a revision out when it is first needed, and compares cases with it.

    Args:
        revision: The other version.
        options: What is swapped.
        reason: Option that asks for it, in messages: ``--perf-ab``.
        context: Settings, machine and root directory of the session.
        progress: Display of the rounds.
    """

    def __init__(
        self, revision: Revision, *, options: SideOptions, reason: str, context: Context, progress: Progress
    ) -> None:
        self.revision = revision
        self._options = options
        self._reason = reason
        self._context = context
        self._progress = progress
        self._worktree = Worktree(revision, parent=context.settings.state_dir / "ab")
        self._sides: tuple[ABSide, ABSide, ABTrees] | None = None
        self._runner: ABRunner | None = None
        self._tests: ABTestProcesses | None = None
        self._said: set[str] = set()

    def compare(
        self,
        case: PlannedCase,
        *,
        policy: VerdictPolicy,
        run_dir: Path,
        limit_sec: float,
        most_rounds: int = MAX_ROUNDS,
        phases: Sequence[Metric] = (),
        block_steps: int = DEFAULT_BLOCK_STEPS,
    ) -> RoundsCompared:
        """Run rounds of a case until there is a verdict or no time for another round.

        Args:
            case: Case to run.
            policy: Tolerances and error rates.
            run_dir: Gets a folder for each round.
            limit_sec: Time the case may take.
            most_rounds: Rounds that count, at most.
            phases: Metrics of phases that are judged too.
            block_steps: Steps of a turn.

        Raises:
            LaunchError: If ranks of one side failed; the text names the side.
            RecordError: If a side left an impossible record.
            RevisionError: If the revision can't be checked out, set up or kept apart from the working tree.
        """
        runner = self._ready_runner()
        rounds = self._rounds_of(case.plan, block_steps=block_steps)

        def add_round(number: int, max_rounds: int) -> None:
            with self._progress.run(case.plan, number=number, num_runs=max_rounds):
                self._add_round(rounds, runner=runner, case=case, run_dir=run_dir / f"round-{number}")
            self._report_shared(runner.shared())

        asked = _Asked(
            case=case.plan.case,
            policy=policy,
            limit_sec=limit_sec,
            most_rounds=most_rounds,
            inject_pct=case.plan.inject_pct,
            phases=tuple(phases),
        )
        return self._until_decided(rounds, asked=asked, add_round=add_round)

    def compare_test(
        self,
        measured: MeasuredCase,
        *,
        policy: VerdictPolicy,
        run_dir: Path,
        limit_sec: float,
        invocation: PytestInvocation,
        most_rounds: int = MAX_ROUNDS,
    ) -> RoundsCompared:
        """Run rounds of a case that is measured in the test process: each side runs the test in a process of its own.

        Args:
            measured: The case as this session measured it.
            policy: Tolerances and error rates.
            run_dir: Gets a folder for each round.
            limit_sec: Time the case may take.
            invocation: How the session was started.
            most_rounds: Rounds that count, at most.

        Raises:
            LaunchError: If the test failed, took too long, or did not measure the case on a side.
            RecordError: If a measurement can't be read.
            RevisionError: If the revision can't be checked out or set up, has no such test, or measures other work.
        """
        old, new, trees = self.sides()
        if self._tests is None:
            self._tests = ABTestProcesses(old, new, trees=trees, invocation=invocation)
        case = measured.measurement.case
        rounds = InProcessRounds(
            self._tests,
            nodeid=measured.mark.nodeid,
            case=case,
            seed=_new_seed(),
            inject_pct=measured.measurement.inject_pct,
        )
        started = time.monotonic()

        def add_round(number: int, _max_rounds: int) -> None:
            left_sec = max((limit_sec - (time.monotonic() - started)) / 2.0, _LEAST_LIMIT_SEC)  # of either side
            rounds.add_round(rounds.next_first(), run_dir=run_dir / f"round-{number}", timeout_sec=left_sec)

        asked = _Asked(
            case=case,
            policy=policy,
            limit_sec=limit_sec,
            most_rounds=most_rounds,
            inject_pct=measured.measurement.inject_pct,
        )
        return self._until_decided(rounds, asked=asked, add_round=add_round)

    def _until_decided(
        self, rounds: ABRounds | InProcessRounds, *, asked: _Asked, add_round: Callable[[int, int], None]
    ) -> RoundsCompared:
        """Run rounds until there is a verdict or no time for another one.

        Args:
            rounds: Rounds of the case, none so far.
            asked: The case and its limits.
            add_round: Runs the round of a number, out of so many, and adds it.
        """
        old_side, new_side, _ = self.sides()
        labels = (old_side.label, new_side.label)
        while True:
            max_rounds = min(rounds.max_rounds(limit_sec=asked.limit_sec), asked.most_rounds)
            number = len(rounds.rounds) + 1
            started = time.monotonic()
            try:
                add_round(number, max(max_rounds, number))
            except NoTurnsError as exc:
                if not isinstance(rounds, ABRounds):
                    raise
                self._report_launches(asked.case, why=str(exc))
                rounds.why_launches = str(exc)
                rounds.lost_sec = time.monotonic() - started
                continue
            max_rounds = min(rounds.max_rounds(limit_sec=asked.limit_sec), asked.most_rounds)
            old = rounds.measured("old")
            new = rounds.measured("new")
            self._progress.finished(
                render_round_line(
                    case=asked.case,
                    number=number,
                    round_=rounds.rounds[-1],
                    old=old.runs[-1:],
                    new=new.runs[-1:],
                    elapsed_sec=time.monotonic() - started,
                    inject_pct=asked.inject_pct,
                )
            )
            verdict = judge_rounds(
                old,
                new,
                rounds=rounds.rounds,
                policy=asked.policy,
                max_rounds=max(max_rounds, MIN_ROUNDS),
                labels=labels,
                is_by_turns=isinstance(rounds, ABRounds) and rounds.why_launches is None,
                phases=asked.phases,
            )
            if verdict.kind is not VerdictKind.INCONCLUSIVE or rounds.num_counted >= max_rounds:
                break
        return RoundsCompared(verdict=verdict, new=new, ab=rounds.result(self.revision.name, labels=labels, old=old))

    def sides(self) -> tuple[ABSide, ABSide, ABTrees]:
        """Return the old and the new side, set up and checked, and their files.

        Raises:
            RevisionError: If the revision can't be checked out, set up or kept apart from the working tree.
        """
        if self._sides is None:
            self._sides = self._prepare()
        return self._sides

    def close(self) -> None:
        """Stop every process and remove the checkout; may be called twice."""
        runner = self._runner
        tests = self._tests
        self._runner = None
        self._tests = None
        if runner is not None:
            runner.close()
        if tests is not None:
            tests.close()
        self._sides = None
        self._worktree.remove()

    def _ready_runner(self) -> ABRunner:
        old, new, trees = self.sides()
        if self._runner is None:
            self._runner = ABRunner(old, new, trees=trees)
        return self._runner

    def _prepare(self) -> tuple[ABSide, ABSide, ABTrees]:
        paths = self._options.paths
        root = self._context.root
        repository = self.revision.repository
        check_entries(paths, project=root, repository=repository)
        self._progress.write_line(f"checking out {self.revision.label}, for {self._reason}")
        checkout = self._worktree.add()
        old_root = checkout / root.resolve().relative_to(repository.resolve())
        old = ABSide(name="old", origin=self.revision.label, root=old_root, paths=paths or default_paths(old_root))
        new = ABSide(name="new", origin="working tree", root=root, paths=paths or default_paths(root))
        if self._options.setup:
            for side in (old, new):
                self._progress.write_line(f"setting up {side.label}: {self._options.setup}")
                set_up(side, command=self._options.setup, project=root)
        for side in (old, new):
            check_modules(side, is_guess=not paths)
        check_installed(new.paths, project=root, repository=repository)
        trees = read_trees(self.revision, checkout=checkout, state_dir=self._context.settings.state_dir)
        return old, new, trees

    def _rounds_of(self, plan: Plan, *, block_steps: int) -> ABRounds:
        gpu_memory_bytes = None
        if plan.device == "cuda":
            gpu_memory_bytes = min(self._context.settings.devices.memory_bytes)
        host_memory_bytes = identity.host_memory_bytes()
        why_launches = unsuited_to_turns(plan, host_memory_bytes=host_memory_bytes, gpu_memory_bytes=gpu_memory_bytes)
        if why_launches:
            self._report_launches(plan.case, why=why_launches)
        return ABRounds(plan, seed=_new_seed(), why_launches=why_launches, block_steps=block_steps)

    def _report_launches(self, case: str, *, why: str) -> None:
        """Write the reason why ranks take no turns, once for all cases with that reason."""
        if why not in self._said:
            self._said.add(why)
            self._progress.write_line(f"{case}: whole launches alternate: {why} (said once a session)")

    def _report_shared(self, paths: Sequence[str]) -> None:
        """Write once of each file or folder that both sides share it."""
        shared = [path for path in paths if path not in self._said]
        if shared:
            self._said.update(shared)
            self._progress.write_line(f"both sides use what git does not have: {', '.join(shared)}")

    def _add_round(self, rounds: ABRounds, *, runner: ABRunner, case: PlannedCase, run_dir: Path) -> None:
        plans = {"old": replace(rounds.plan, inject_pct=0.0), "new": rounds.plan}
        started = time.monotonic()
        first = rounds.next_first()
        if rounds.why_launches is None:
            output = runner.by_turns(
                plans,
                framework=case.framework,
                run_dir=run_dir,
                first=first,
                block_steps=rounds.block_steps,
                on_progress=self._progress.step,
            )
        else:
            output = runner.by_launches(
                plans, framework=case.framework, run_dir=run_dir, first=first, on_progress=self._progress.step
            )
        rounds.add(output, took_sec=time.monotonic() - started)


def _new_seed() -> int:
    """Return a seed for the order of the sides."""
    return random.SystemRandom().randrange(2**32)
