"""Comparison with another revision in a perf session: checkout, then rounds of each case until a verdict."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_nemoperf.ab.comparison import MIN_ROUNDS, judge_rounds
from pytest_nemoperf.ab.import_paths import check_entries, check_installed, check_modules, default_paths, is_unchanged
from pytest_nemoperf.ab.plan import DEFAULT_BLOCK_STEPS, unsuited_to_turns
from pytest_nemoperf.ab.round import ABRunner, NoTurnsError
from pytest_nemoperf.ab.series import ABRounds
from pytest_nemoperf.ab.source_trees import read_trees
from pytest_nemoperf.ab.worktree import SIDE_VARIABLE, ABSide, Revision, Worktree, find_revision, set_up
from pytest_nemoperf.baselines.store import StoredBaseline
from pytest_nemoperf.errors import RevisionError
from pytest_nemoperf.machine import identity
from pytest_nemoperf.measure.measurement import Measurement
from pytest_nemoperf.options.settings import Settings
from pytest_nemoperf.report.terminal.ab import render_round_line
from pytest_nemoperf.session.cases import MeasuredCase, PlannedCase
from pytest_nemoperf.verdict.comparison import VerdictKind

if TYPE_CHECKING:
    from pytest_nemoperf.machine.host_lock import HostLock
    from pytest_nemoperf.options.settings import ABOptions
    from pytest_nemoperf.recipes.recipe import Plan
    from pytest_nemoperf.runs.folders import SessionFolder
    from pytest_nemoperf.session.context import Context
    from pytest_nemoperf.session.progress import Progress


class ABSession:
    """Checks out the other revision when it is first needed, and compares cases.

    Args:
        options: Values of ``--perf-ab`` and its ini keys.
        context: Settings, machine and root directory of the session.
        folder: Working folder of the session.
        turn: Lock that perf sessions of this host take turns with.
        progress: Display of the rounds.

    Raises:
        RevisionError: If there is no such revision, or it has the very files of the working tree.
    """

    def __init__(
        self, options: ABOptions, *, context: Context, folder: SessionFolder, turn: HostLock, progress: Progress
    ) -> None:
        self.revision = find_revision(options.revision, root=context.root)
        self.caution = _equal_sides(self.revision, options=options, settings=context.settings, root=context.root)
        self._options = options
        self._context = context
        self._folder = folder
        self._turn = turn
        self._progress = progress
        self._worktree = Worktree(self.revision, parent=context.settings.state_dir / "ab")
        self._runner: ABRunner | None = None
        self._said: set[str] = set()

    def measure(self, case: PlannedCase) -> MeasuredCase:
        """Run rounds of a case until there is a verdict or no time for another round; see CaseLauncher.

        Nothing of it is ever stored.
        """
        self._turn.acquire(report=self._progress.write_line)
        runner = self._runner or self._prepare()
        rounds = self._rounds_of(case.plan)
        run_dir = self._folder.path / case.plan.case
        labels = (runner.sides["old"].label, runner.sides["new"].label)
        while True:
            max_rounds = rounds.max_rounds(limit_sec=self._options.limit_sec)
            number = len(rounds.rounds) + 1
            started = time.monotonic()
            with self._progress.run(case.plan, number=number, num_runs=max(max_rounds, number)):
                try:
                    self._add_round(rounds, runner=runner, case=case, run_dir=run_dir)
                except NoTurnsError as exc:
                    self._report_launches(case.plan.case, why=str(exc))
                    rounds.why_launches = str(exc)
                    rounds.lost_sec = time.monotonic() - started
                    continue
            self._report_shared(runner)
            max_rounds = rounds.max_rounds(limit_sec=self._options.limit_sec)
            old = rounds.measured("old")
            new = rounds.measured("new")
            self._progress.finished(_line(rounds, old=old, new=new, took_sec=time.monotonic() - started))
            verdict = judge_rounds(
                old,
                new,
                rounds=rounds.rounds,
                policy=case.policy,
                max_rounds=max(max_rounds, MIN_ROUNDS),
                labels=labels,
            )
            if verdict.kind is not VerdictKind.INCONCLUSIVE or rounds.num_counted >= max_rounds:
                break
        return MeasuredCase(
            mark=case.mark,
            measurement=new,
            machine=self._context.machine,
            provenance=self._context.provenance,
            policy=case.policy,
            found=StoredBaseline(baseline=None, path=""),
            plan=case.plan,
            run_dir=run_dir,
            verdict=verdict,
            ab=rounds.result(self._options.revision, labels=labels, old=old),
            is_storable=False,
        )

    def close(self) -> None:
        """Stop every process and remove the checkout; may be called twice."""
        runner = self._runner
        self._runner = None
        if runner is not None:
            runner.close()
        self._worktree.remove()

    def _prepare(self) -> ABRunner:
        paths = self._options.paths
        repository = self.revision.repository
        check_entries(paths, project=self._context.root, repository=repository)
        self._progress.write_line(f"checking out {self.revision.label}, for --perf-ab")
        checkout = self._worktree.add()
        old_root = checkout / self._context.root.resolve().relative_to(repository.resolve())
        old = ABSide(name="old", origin=self.revision.label, root=old_root, paths=paths or default_paths(old_root))
        new = ABSide(
            name="new", origin="working tree", root=self._context.root, paths=paths or default_paths(self._context.root)
        )
        if self._options.setup:
            for side in (old, new):
                self._progress.write_line(f"setting up {side.label}: {self._options.setup}")
                set_up(side, command=self._options.setup, project=self._context.root)
        for side in (old, new):
            check_modules(side, is_guess=not paths)
        check_installed(new.paths, project=self._context.root, repository=repository)
        trees = read_trees(self.revision, checkout=checkout, state_dir=self._context.settings.state_dir)
        self._runner = ABRunner(old, new, trees=trees)
        return self._runner

    def _rounds_of(self, plan: Plan) -> ABRounds:
        gpu_memory_bytes = None
        if plan.device == "cuda":
            gpu_memory_bytes = min(self._context.settings.devices.memory_bytes)
        host_memory_bytes = identity.host_memory_bytes()
        why_launches = unsuited_to_turns(plan, host_memory_bytes=host_memory_bytes, gpu_memory_bytes=gpu_memory_bytes)
        if why_launches:
            self._report_launches(plan.case, why=why_launches)
        return ABRounds(plan, seed=random.SystemRandom().randrange(2**32), why_launches=why_launches)

    def _report_launches(self, case: str, *, why: str) -> None:
        """Write the reason why ranks take no turns, once for all cases with that reason."""
        if why not in self._said:
            self._said.add(why)
            self._progress.write_line(f"{case}: whole launches alternate: {why} (said once a session)")

    def _report_shared(self, runner: ABRunner) -> None:
        """Write once of each file or folder that both sides share it."""
        shared = [path for path in runner.shared() if path not in self._said]
        if shared:
            self._said.update(shared)
            self._progress.write_line(f"both sides use what git does not have: {', '.join(shared)}")

    def _add_round(self, rounds: ABRounds, *, runner: ABRunner, case: PlannedCase, run_dir: Path) -> None:
        plans = {"old": replace(rounds.plan, inject_pct=0.0), "new": rounds.plan}
        started = time.monotonic()
        first = rounds.next_first()
        round_dir = run_dir / f"round-{len(rounds.rounds) + 1}"
        if rounds.why_launches is None:
            output = runner.by_turns(
                plans,
                framework=case.framework,
                run_dir=round_dir,
                first=first,
                block_steps=DEFAULT_BLOCK_STEPS,
                on_progress=self._progress.step,
            )
        else:
            output = runner.by_launches(
                plans, framework=case.framework, run_dir=round_dir, first=first, on_progress=self._progress.step
            )
        rounds.add(output, took_sec=time.monotonic() - started)


def _equal_sides(revision: Revision, *, options: ABOptions, settings: Settings, root: Path) -> str:
    """Return a caution about two sides with the same files in git; empty if they differ.

    Raises:
        RevisionError: If nothing else can make them differ, and no self-test wants them equal.
    """
    paths = options.paths or default_paths(root)
    if not is_unchanged(revision, paths=paths, project=root, state_dir=settings.state_dir):
        return ""
    same = f"old and new are the same files: {revision.label} is what the working tree holds"
    if options.is_self_test:
        return f"{same}, as --perf-inject may have it; no verdict of this session speaks of a change"
    if SIDE_VARIABLE in options.setup:
        return f"{same}; they differ only by what perf_ab_setup makes of {SIDE_VARIABLE}"
    raise RevisionError(
        f"--perf-ab={revision.name}: {same}, and nothing is changed, so that every case would pass as equal to itself; "
        f"name an older revision, such as {revision.name}~1, or test this machine's noise on equal sides by "
        "--perf-inject=0"
    )


def _line(rounds: ABRounds, *, old: Measurement, new: Measurement, took_sec: float) -> str:
    return render_round_line(
        case=rounds.plan.case,
        number=len(rounds.rounds),
        round_=rounds.rounds[-1],
        old=old.runs[-1:],
        new=new.runs[-1:],
        elapsed_sec=took_sec,
        inject_pct=rounds.plan.inject_pct,
    )
