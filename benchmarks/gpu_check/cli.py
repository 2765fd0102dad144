"""Command line of the check."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from gpu_check.programs.sessions import plugin_options
from gpu_check.progress import Progress
from gpu_check.runner import Check, run_stages
from gpu_check.stages import STAGES, STAND_INS, START_UP, Stage, stages_by_name
from gpu_check.state import State, read_state
from gpu_check.summary import SUMMARY_MARKDOWN, terminal_text
from pytest_nemoperf.errors import NemoPerfError, did_you_mean
from pytest_nemoperf.machine.identity import choose_system, detect_devices
from pytest_nemoperf.native.fast_paths import FAST_PATHS, FAST_PATHS_VARIABLE

ROOT = Path(__file__).parents[2]
_CPU = "cpu"
_USAGE_ERROR = 2
_INTERRUPTED = 130
_COLLECT_SEC = 120
_MINUTES = 8.0
_COLUMNS = 79
_LOCK_FILE = ".lock"

DESCRIPTION = """\
Check a GPU machine. Stages run in order of importance, each within its own
limit, and a start within --minutes. What is found is kept after every stage,
whatever ends the check: a limit, Ctrl-C, or a machine that is taken away.
Start it again to go on: stages that have passed or failed are not run again.

results
  FOLDER/summary.md     the table of the stages, then the figures of each
  FOLDER/summary.json   the same as data
  FOLDER/<stage>/       its log, findings and session results
  FOLDER/baselines/     baselines of this system, of one launch a case
  ARCHIVE               all of it in one file

examples
  python -m benchmarks.gpu_check              8 minutes; again: goes on
  python -m benchmarks.gpu_check --only suite,kernels --again
  python -m benchmarks.gpu_check --dry-run    the same on a CPU, with tiny models
  PYTHONPATH=src python3 -m benchmarks.gpu_check    without installing

The exit status is 0 if no stage failed, 1 if one did, 130 after Ctrl-C, 2 for a
wrong option or a folder that can't be used.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the check and return its exit status."""
    started = time.monotonic()
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
    archive = Path(options.archive or folder.with_name(f"gpu-check-{system}.tar.gz")).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / _LOCK_FILE, timeout=0):
            state = read_state(folder, system=system)
            forget(state, stages, folder=folder, again=options.again, again_failed=options.again_failed)
            if not options.dry_run:
                seed_baselines(ROOT / "baselines", system=system, into=folder / "baselines")
            check = Check(
                root=ROOT,
                folder=folder,
                archive=archive,
                system=system,
                is_cpu=options.dry_run,
                deadline=started + options.minutes * 60,
                nodeids=collected_tests(stages, is_cpu=options.dry_run),
                num_gpus=len(detect_devices().names),
                stretch=options.stretch,
            )
            return _run(check, stages, state=state, is_stored=options.update_baselines)
    except Timeout:
        print(f"gpu-check: another check runs in {folder}; wait for it, or give another --folder", file=sys.stderr)
    except OSError as error:
        print(f"gpu-check: {error}; results go to {folder}, and to --archive: is there room?", file=sys.stderr)
    except (ValueError, NemoPerfError) as error:
        print(f"gpu-check: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("gpu-check: interrupted before the first stage", file=sys.stderr)
        return _INTERRUPTED
    return _USAGE_ERROR


def _run(check: Check, stages: Sequence[Stage], *, state: State, is_stored: bool) -> int:
    """Run the stages, show how they ended, and return the exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup wants it
        signal.signal(signal.SIGHUP, _interrupt)
    status = 0
    try:
        run_stages(check, stages, state=state, progress=Progress())
    except KeyboardInterrupt:
        status = _INTERRUPTED
    if is_stored:
        print(store_baselines(check.folder / "baselines", into=ROOT / "baselines"))
    columns = shutil.get_terminal_size().columns
    print(f"\n{terminal_text(state, columns=columns)}\n\n{check.folder / SUMMARY_MARKDOWN}\n{check.archive}")
    ran = [state.stages[stage.name] for stage in stages if stage.name in state.stages]
    return status or int(any(stage.outcome.is_bad for stage in ran))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", action="store_true", help="list the stages and the fast paths, and run nothing")
    parser.add_argument("--only", metavar="STAGES", default="", help="run these stages alone: machine,ranks")
    parser.add_argument("--skip", metavar="STAGES", default="", help="leave these stages out")
    parser.add_argument("--again", action="store_true", help="run chosen stages anew, whatever they found before")
    parser.add_argument("--again-failed", action="store_true", help="run once more what has failed")
    parser.add_argument("--minutes", type=_minutes, default=_MINUTES, help="time of this start in all (8)")
    parser.add_argument(
        "--stretch", type=_stretch, default=1.0, metavar="X", help="factor of the limits of stages, on a busy machine"
    )
    parser.add_argument("--dry-run", action="store_true", help="run the sequence on the CPU, with tiny models")
    parser.add_argument(
        "--update-baselines", action="store_true", help="copy this system's new baselines to baselines/<system>/"
    )
    parser.add_argument("--folder", help="folder of state and results (.nemoperf/gpu-check/<system>)")
    parser.add_argument("--archive", help="archive of the results (.nemoperf/gpu-check/gpu-check-<system>.tar.gz)")
    return parser.parse_args(argv)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= 24 * 60:
        raise argparse.ArgumentTypeError(f"{text!r} minutes; give a number above 0, and a day at most")
    return minutes


def _stretch(text: str) -> float:
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 1 <= factor <= 100:
        raise argparse.ArgumentTypeError(f"{text!r}; give a factor from 1 to 100")
    return factor


def listing() -> str:
    """Return the stages in order, with what each shows, and the fast paths, in lines of 80 columns."""
    lines = ["stages, in order (seconds on an H100, about; limit in seconds)"]
    for stage in STAGES:
        needs = f" [needs {', '.join(stage.distributions)}]" if stage.distributions else ""
        head = f"  {stage.name:<13}{stage.expected_sec:>4.0f}{stage.limit_sec:>5.0f}  "
        lines.append(textwrap.fill(f"{head}{stage.shows}{needs}", _COLUMNS, subsequent_indent=" " * len(head)))
    total_sec = sum(stage.expected_sec for stage in STAGES if not stage.distributions and stage.least_gpus == 1)
    text = (
        f"On one GPU, without the packages that a stage needs, they take about {total_sec / 60:.0f} minutes together. "
        f"A start takes up those that its --minutes ({_MINUTES:.0f}) have room for, and the next one goes on."
    )
    lines += [textwrap.fill(text, _COLUMNS), ""]
    lines.append(
        textwrap.fill(f"fast paths, off by default; {FAST_PATHS_VARIABLE}=NAME,... switches them on", _COLUMNS)
    )
    for path in FAST_PATHS:
        indent = " " * 22
        for text in (f"  {path.name:<20}{path.does}", f"{indent}costs: {path.cost}"):
            lines.append(textwrap.fill(text, _COLUMNS, subsequent_indent=indent))
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


def forget(state: State, stages: Sequence[Stage], *, folder: Path, again: bool, again_failed: bool) -> None:
    """Drop the outcomes of stages that are to run once more.

    Args:
        state: Outcomes until now.
        stages: Stages that were chosen.
        folder: Folder of the check.
        again: All of them run anew, and what they have found is removed.
        again_failed: Those that failed run again; their parts that were as they should be are kept.
    """
    for stage in stages:
        kept = state.stages.get(stage.name)
        if kept is not None and (again or (again_failed and kept.outcome.is_bad)):
            del state.stages[stage.name]
        if again:
            shutil.rmtree(folder / stage.name, ignore_errors=True)


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
    try:
        run = subprocess.run(
            command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=_COLLECT_SEC, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"pytest did not collect the perf tests within {_COLLECT_SEC} s; is the machine busy?"
        ) from error
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


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
