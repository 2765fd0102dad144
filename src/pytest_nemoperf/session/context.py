"""State shared by the cases of a session: settings, machine, stored baselines, and the form of commands and paths."""

from __future__ import annotations

import shlex
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_nemoperf.baselines.files import list_baselines
from pytest_nemoperf.baselines.store import BaselineStore, StoredBaseline, other_folders
from pytest_nemoperf.errors import count_text
from pytest_nemoperf.machine import identity
from pytest_nemoperf.machine.git import CodeVersion, code_version
from pytest_nemoperf.options.settings import Settings
from pytest_nemoperf.recipes.overrides import changes_text
from pytest_nemoperf.results.ceilings import CALL_CASES, Ceiling, ceiling_of
from pytest_nemoperf.session.lookup import BaselineLookup
from pytest_nemoperf.verdict.comparison import NEEDS_ACCEPTANCE, VerdictKind

if TYPE_CHECKING:
    from pytest_nemoperf.records.provenance import Provenance


class Context:
    """Settings of a session with the machine, the stored baselines and the code that follow from them.

    Args:
        settings: Values of options and ini keys.
        root: Root directory of the project.
        started_in: Directory in which pytest was started.
    """

    def __init__(self, settings: Settings, *, root: Path, started_in: Path) -> None:
        self.settings = settings
        self.root = root
        self._started_in = started_in
        self.machine = _machine_key(settings, num_gpus=None)
        self.store = BaselineStore(
            committed_dir=settings.baselines_dir,
            local_dir=settings.state_dir / "baselines",
            system=settings.system.name,
            machine=self.machine,
            is_updating=settings.updating is not None,
            is_local_used_if_missing=VerdictKind.NO_BASELINE not in settings.fail_on,
            is_local_used_if_other=VerdictKind.NOT_COMPARABLE not in settings.fail_on,
        )

        self.baselines = BaselineLookup(store=self.store, against=settings.against, machine_of=self.machine_of)

    def machine_of(self, num_gpus: int) -> dict[str, str | int]:
        """Return this machine's key for a case of so many GPUs; ``machine`` describes the whole machine."""
        return _machine_key(self.settings, num_gpus=num_gpus)

    @cached_property
    def code(self) -> CodeVersion:
        """Commit of the code in the root directory."""
        return code_version(self.root)

    @cached_property
    def provenance(self) -> Provenance:
        """Date, commit, versions, device and command of this session."""
        return identity.provenance(self.settings.system, devices=self.settings.devices, code=self.code)

    @property
    def baselines_shown(self) -> str:
        """Folder of the system's committed baselines; its whole path if it could be taken for another one."""
        folder = self.settings.baselines_dir / self.settings.system.name
        if self.elsewhere:
            return str(folder)
        return self.shown(folder)

    @cached_property
    def elsewhere(self) -> tuple[str, ...]:
        """Sentences on further folders that hold baselines of the system and are not looked into."""
        system = self.settings.system.name
        near = (self._started_in, self.root, *self.root.parents)
        texts = []
        for folder in other_folders(self.settings.baselines_dir, system=system, near=near):
            stored = count_text(len(list_baselines(folder, system=system)), "baseline")
            option = shlex.join([f"--perf-baselines={folder}"])
            texts.append(f"{folder / system} holds {stored} and is not looked into; {option} does so")
        return tuple(texts)

    def ceilings(self) -> list[Ceiling]:
        """Return the ceilings of this machine, as its stored kernels and collectives show them now."""
        ceilings = []
        for path, baseline in self.store.of_this_machine(beginnings=CALL_CASES).items():
            ceiling = ceiling_of(baseline, source=self.shown(path))
            if ceiling is not None:
                ceilings.append(ceiling)
        return ceilings

    def other_folder_notes(self, found: StoredBaseline) -> tuple[str, ...]:
        """Return notes on baselines in other folders, for a case that has no committed one."""
        if (
            self.settings.against == "published"
            or not self.elsewhere
            or (found.baseline is not None and not found.is_local)
        ):
            return ()
        if found.baseline is None:
            return self.elsewhere
        if self.store.find_committed(found.baseline.case) is not None:
            return ()
        own = f"judged by what this machine did before, for {self.baselines_shown} holds nothing of this case"
        return (own, *self.elsewhere)

    def shown(self, path: Path | str | None) -> str:
        """Return a path for people, relative to the root directory if it lies there; empty for none."""
        if not path:
            return ""
        if Path(path).is_relative_to(self.root):
            return str(Path(path).relative_to(self.root))
        return str(path)

    def command(self, nodeid: str, *extra: str) -> str:
        """Return the shell command that runs a test as this session does."""
        words = ["pytest", "-m", "perf", f"--system={self.settings.system.name}"]
        if self.settings.changes:
            words.append(f"--perf-set={changes_text(self.settings.changes)}")
        if self.settings.frameworks:
            words.append(f"--perf-framework={','.join(self.settings.frameworks)}")
        if self.settings.replay_dir:
            words.append(f"--perf-replay={self.shown(self.settings.replay_dir)}")
        if self.settings.ab:
            words.append(f"--perf-ab={self.settings.ab.revision}")
        if self.settings.against == "published":
            words.append("--perf-against=published")
        return shlex.join([*words, *extra, nodeid])

    def rerun_command(self, nodeid: str) -> str:
        """Return the shell command that runs a test once more; a self-test runs as one again."""
        inject_pct = self.settings.inject_pct
        if inject_pct:
            return self.command(nodeid, f"--perf-inject={inject_pct:g}%")
        if self.settings.ab and self.settings.ab.is_self_test:
            return self.command(nodeid, "--perf-inject=0")
        return self.command(nodeid)

    def accept_command(self, nodeid: str, *, kind: VerdictKind) -> str:
        """Return the shell command that stores a case in spite of its verdict; empty if none can."""
        settings = self.settings
        if settings.changes or settings.replay_dir or settings.ab or settings.against == "published":
            return ""
        if kind not in NEEDS_ACCEPTANCE:
            return self.command(nodeid, "--update-baselines")
        reason = "--perf-reason=why it is acceptable"
        return self.command(nodeid, "--update-baselines", "--perf-accept-regression", reason)


def _machine_key(settings: Settings, *, num_gpus: int | None) -> dict[str, str | int]:
    """Return this machine's key; empty for a dry run on GPUs of another machine."""
    if settings.system.device == "cuda" and not settings.devices.names:
        return {}
    return identity.machine_key(
        settings.system, devices=settings.devices, num_gpus=num_gpus, machine_name=settings.machine_name
    )
