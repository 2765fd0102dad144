"""Command line of the check."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from gpu_check.programs.sessions import plugin_options
from gpu_check.progress import Progress
from gpu_check.runner import Check, keep, run_stages
from gpu_check.stages import STAGES, STAND_INS, START_UP, Stage, stages_by_name
from gpu_check.state import State, read_state
from gpu_check.summary import terminal_table
from pytest_nemoperf.errors import NemoPerfError, did_you_mean
from pytest_nemoperf.machine.identity import choose_system, detect_devices
from pytest_nemoperf.native.fast_paths import FAST_PATHS, FAST_PATHS_VARIABLE

ROOT = Path(__file__).parents[2]
_CPU = "cpu"
_USAGE_ERROR = 2
_INTERRUPTED = 130
_COLLECT_SEC = 120

DESCRIPTION = """\
Check a GPU machine in one go. Stages run in order of importance, each within its own limit, and all of them within
--minutes. What is found is kept after every stage, whatever ends the check: a limit, Ctrl-C, or a machine that is taken
away. Start it again to go on: stages that have passed or failed are not run again.

results
  FOLDER/summary.md     the table of the stages, then the figures of each
  FOLDER/summary.json   the same as data
  FOLDER/<stage>/       its log, findings and session results
  FOLDER/baselines/     baselines of this system, of one launch a case
  ARCHIVE               all of it in one file

examples
  python -m benchmarks.gpu_check                          everything, 8 minutes
  python -m benchmarks.gpu_check                          once more: goes on where the first start ended
  python -m benchmarks.gpu_check --only suite,kernels --again
  python -m benchmarks.gpu_check --dry-run                the same sequence on this machine's CPU, with tiny models
  PYTHONPATH=src python3 -m benchmarks.gpu_check          without installing the package

The exit status is 0 if no stage failed, 1 if one did, 2 for a wrong option, 130 after Ctrl-C.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check and return its exit status."""
    options = _parse(argv)
    if options.list:
        print(listing())
        return 0
    try:
        stages = chosen_stages(options.only, skip=options.skip)
        system = _CPU if options.dry_run else found_system()
    except (ValueError, NemoPerfError) as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return _USAGE_ERROR
    folder = Path(options.folder or ROOT / ".nemoperf" / "gpu-check" / system).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    archive = Path(options.archive or folder.with_name(f"gpu-check-{system}.tar.gz")).absolute()
    state = read_state(folder, system=system)
    forget(state, stages, again=options.again, again_failed=options.again_failed)
    progress = Progress()
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    if system != _CPU:
        seed_baselines(ROOT / "baselines", system=system, into=folder / "baselines")
    try:
        nodeids = collected_tests(stages, is_cpu=options.dry_run)
        check = Check(
            root=ROOT,
            folder=folder,
            archive=archive,
            system=system,
            is_cpu=system == _CPU,
            total_sec=options.minutes * 60,
            nodeids=nodeids,
            num_gpus=len(detect_devices().names),
        )
        run_stages(check, stages, state=state, progress=progress)
    except KeyboardInterrupt:
        print("interrupted; start the check again to go on")
        print(_closing(state, folder=folder, archive=archive))
        return _INTERRUPTED
    except ValueError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return _USAGE_ERROR
    if options.update_baselines:
        print(store_baselines(folder / "baselines", into=ROOT / "baselines"))
    keep(check, state)
    print(_closing(state, folder=folder, archive=archive))
    ran = [state.stages[stage.name] for stage in stages if stage.name in state.stages]
    return int(any(stage.outcome.is_bad for stage in ran))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="list the stages and the fast paths, and run nothing")
    parser.add_argument("--only", metavar="STAGES", default="", help="run these stages alone: machine,ranks")
    parser.add_argument("--skip", metavar="STAGES", default="", help="leave these stages out")
    parser.add_argument("--again", action="store_true", help="run chosen stages that have passed or failed once more")
    parser.add_argument("--again-failed", action="store_true", help="run those that have failed once more")
    parser.add_argument("--minutes", type=_minutes, default=8.0, help="time for all stages of this start (8)")
    parser.add_argument("--dry-run", action="store_true", help="run the sequence on the CPU, with tiny models")
    parser.add_argument(
        "--update-baselines", action="store_true", help="copy this system's new baselines to baselines/<system>/"
    )
    parser.add_argument("--folder", help="folder of state and results (.nemoperf/gpu-check/<system>)")
    parser.add_argument("--archive", help="archive of the results (.nemoperf/gpu-check/gpu-check-<system>.tar.gz)")
    return parser.parse_args(argv)


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes <= 24 * 60:
        raise argparse.ArgumentTypeError(f"{text} minutes; give more than 0, and a day at most")
    return minutes


def listing() -> str:
    """Return the stages in order, with what each shows, and the fast paths."""
    lines = ["stages, in order (limit in seconds)"]
    for stage in STAGES:
        needs = f" [needs {', '.join(stage.distributions)}]" if stage.distributions else ""
        lines.append(f"  {stage.name:<14}{stage.limit_sec:>4.0f}  {stage.shows}{needs}")
    lines.append("")
    lines.append(f"fast paths, off by default; {FAST_PATHS_VARIABLE}=NAME,... switches them on")
    for path in FAST_PATHS:
        lines.append(f"  {path.name:<20}{path.does}")
        lines.append(f"  {'':<20}costs: {path.cost}")
    return "\n".join(lines)


def chosen_stages(only: str, *, skip: str) -> list[Stage]:
    """Return the stages to run, in their order.

    Raises:
        ValueError: If there is no such stage, or none is left.
    """
    by_name = stages_by_name()
    wanted = _names(only, option="--only") or set(by_name)
    unwanted = _names(skip, option="--skip")
    stages = [stage for stage in STAGES if stage.name in wanted - unwanted]
    if not stages:
        raise ValueError(f"--only={only} --skip={skip} leaves no stage; see --list")
    return stages


def _names(text: str, *, option: str) -> set[str]:
    names = {part.strip() for part in text.split(",")} - {""}
    for name in sorted(names):
        if name not in stages_by_name():
            raise ValueError(f"{option}={text}: no stage is named {name!r}; {did_you_mean(name, stages_by_name())}")
    return names


def found_system() -> str:
    """Return the name of this machine's system.

    Raises:
        MachineError: If its GPUs belong to no system of the catalog.
        ValueError: If it has no GPU.
    """
    devices = detect_devices()
    system = choose_system("auto", devices=devices).name
    if system == _CPU:
        raise ValueError("no NVIDIA GPU is visible here; --dry-run runs the whole sequence on the CPU with tiny models")
    return system


def forget(state: State, stages: Sequence[Stage], *, again: bool, again_failed: bool) -> None:
    """Drop the outcomes of stages that are to run once more."""
    for stage in stages:
        kept = state.stages.get(stage.name)
        if kept is not None and (again or (again_failed and kept.outcome.is_bad)):
            del state.stages[stage.name]


def collected_tests(stages: Sequence[Stage], *, is_cpu: bool) -> list[str] | None:
    """Return the node ids of the perf tests that stages choose from; None if none of them has tests.

    Raises:
        ValueError: If pytest can't collect them.
    """
    choosing = [stage for stage in stages if stage.selection(is_cpu=is_cpu) is not None]
    if not choosing:
        return None
    command = [sys.executable, "-m", "pytest", *plugin_options(), "-p", "no:cacheprovider", "-m", "perf"]
    command += ["--collect-only", "-q", "perf_tests", STAND_INS, START_UP]
    run = subprocess.run(
        command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=_COLLECT_SEC, check=False
    )
    nodeids = [line.strip() for line in run.stdout.splitlines() if "::" in line and " " not in line.strip()]
    if run.returncode != 0 or not nodeids:
        raise ValueError(f"pytest can't collect the perf tests:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
    return nodeids


def seed_baselines(committed: Path, *, system: str, into: Path) -> None:
    """Copy the system's committed baselines into the check's folder once, so that cases are judged by them."""
    if (committed / system).is_dir() and not into.exists():
        shutil.copytree(committed / system, into / system)


def store_baselines(found: Path, *, into: Path) -> str:
    """Copy the baselines of a check to the committed ones, and return a line on it."""
    copied = []
    for path in sorted(found.rglob("*.json")):
        target = into / path.relative_to(found)
        if target.exists() and target.read_bytes() == path.read_bytes():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        copied.append(str(path.relative_to(found)))
    if not copied:
        return "baselines: nothing new"
    return "baselines stored:\n" + "\n".join(f"  baselines/{name}" for name in copied)


def _closing(state: State, *, folder: Path, archive: Path) -> str:
    return f"\n{terminal_table(state)}\n\n{folder / 'summary.md'}\n{archive}"


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
