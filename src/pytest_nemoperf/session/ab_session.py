"""Comparison with another revision in a perf session: ``--perf-ab``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pytest_nemoperf.ab.import_paths import default_paths, is_unchanged
from pytest_nemoperf.ab.worktree import SIDE_VARIABLE, Revision, find_revision
from pytest_nemoperf.baselines.store import StoredBaseline
from pytest_nemoperf.errors import RevisionError
from pytest_nemoperf.options.settings import Settings
from pytest_nemoperf.session.cases import MeasuredCase, PlannedCase
from pytest_nemoperf.session.side_by_side import SideBySide

if TYPE_CHECKING:
    from pytest_nemoperf.machine.host_lock import HostLock
    from pytest_nemoperf.options.settings import ABOptions
    from pytest_nemoperf.runs.folders import SessionFolder
    from pytest_nemoperf.session.context import Context
    from pytest_nemoperf.session.progress import Progress


class ABSession:
    """Compares cases with the other revision.

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
        self.revision = find_revision(options.revision, root=context.root, subject="--perf-ab")
        self.caution = _equal_sides(self.revision, options=options, settings=context.settings, root=context.root)
        self._limit_sec = options.limit_sec
        self._context = context
        self._folder = folder
        self._turn = turn
        self._progress = progress
        self._sides = SideBySide(
            self.revision, options=context.settings.sides, reason="--perf-ab", context=context, progress=progress
        )

    def measure(self, case: PlannedCase) -> MeasuredCase:
        """Run rounds of a case until there is a verdict or no time for another round; see CaseLauncher.

        Nothing of it is ever stored.
        """
        self._turn.acquire(report=self._progress.write_line)
        run_dir = self._folder.path / case.plan.case
        compared = self._sides.compare(case, policy=case.policy, run_dir=run_dir, limit_sec=self._limit_sec)
        return MeasuredCase(
            mark=case.mark,
            measurement=compared.new,
            machine=self._context.machine_of(case.plan.layout.total_gpus),
            provenance=self._context.provenance,
            policy=case.policy,
            found=StoredBaseline(baseline=None, path=""),
            plan=case.plan,
            run_dir=run_dir,
            verdict=compared.verdict,
            ab=compared.ab,
            is_storable=False,
        )

    def close(self) -> None:
        """Stop every process and remove the checkout; may be called twice."""
        self._sides.close()


def _equal_sides(revision: Revision, *, options: ABOptions, settings: Settings, root: Path) -> str:
    """Return a caution about two sides with the same files in git; empty if they differ.

    Raises:
        RevisionError: If nothing else can make them differ, and no self-test wants them equal.
    """
    paths = settings.sides.paths or default_paths(root)
    if not is_unchanged(revision, paths=paths, project=root, state_dir=settings.state_dir):
        return ""
    same = f"old and new are the same files: {revision.label} is what the working tree holds"
    if options.is_self_test:
        return f"{same}, as --perf-inject may have it; no verdict of this session speaks of a change"
    if SIDE_VARIABLE in settings.sides.setup:
        return f"{same}; they differ only by what perf_ab_setup makes of {SIDE_VARIABLE}"
    raise RevisionError(
        f"--perf-ab={revision.name}: {same}, and nothing is changed, so that every case would pass as equal to itself; "
        f"name an older revision, such as {revision.name}~1, or test this machine's noise on equal sides by "
        "--perf-inject=0"
    )
