"""Cost of the plugin before any test runs: collecting many perf cases, and starting pytest.

Whole processes with the plugin and without (``-p no:nemoperf``) run in turns, from a temporary project:

- 10,000 perf cases, each with a stored baseline: ``pytest --collect-only -q -m perf --system=cpu``. Without the
  plugin the project registers the marker itself, and the cases are collected without ``-m``.
- one empty file: ``pytest -q``.

Other installed plugins are left out on both sides: modules that they import would cost ours nothing.

``python benchmarks/collection.py [--rounds N] [--cases N]``
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

import pytest
from tables import machine_line, markdown_table, median_interval, spread

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.baselines.files import write_baseline
from pytest_nemoperf.flops.conventions import DEFAULT_CONVENTION
from pytest_nemoperf.machine.git import code_version
from pytest_nemoperf.machine.identity import detect_devices, machine_key, provenance
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.recipes.systems import find_system

COLLECTION_GOAL_SEC = 1.0
START_GOAL_SEC = 0.050
START_ROUNDS_PER_ROUND = 4
NUM_MODULES_SHOWN = 8

PERF_TESTS = """\
import pytest

@pytest.mark.perf
@pytest.mark.parametrize("variant", [f"v{{number:05d}}" for number in range({cases})])
def test_case(perf, variant):
    from pytest_nemoperf import Layout, Recipe  # here, so that pytest without the plugin does not pay for it

    layouts = {{"cpu": Layout(gpus=1)}}
    perf.check(Recipe(model="llama-tiny", layouts=layouts, seq_len=64, global_batch_size=1, variant=variant))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One way to start pytest, with the times of its processes.

    Attributes:
        name: For people.
        arguments: After ``pytest``.
        folder: Working directory of its processes.
        expected: Part of its output, so that a failed run is never taken for a fast one.
        exit_code: Expected too.
        wall_sec: Of each process, start to end.
        user_sec: User CPU time of each process.
    """

    name: str
    arguments: tuple[str, ...]
    folder: Path
    expected: str
    exit_code: int = 0
    wall_sec: list[float] = field(default_factory=list)
    user_sec: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Start it once and keep the times.

        Raises:
            RuntimeError: If exit code or output are not as expected.
        """
        user = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        start = time.perf_counter()
        done = start_python("-m", "pytest", *self.arguments, folder=self.folder)
        self.wall_sec.append(time.perf_counter() - start)
        self.user_sec.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - user)
        if done.returncode != self.exit_code or self.expected not in done.stdout:
            raise RuntimeError(
                f"pytest {' '.join(self.arguments)}: exit code {done.returncode}, expected {self.exit_code} and "
                f"{self.expected!r} in the output, which ends: {done.stdout[-500:]}{done.stderr[-500:]}"
            )


def start_python(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run this Python in a folder to its end, without pytest options from this shell's environment."""
    env = dict(os.environ)
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        env.pop(name, None)
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def without_others() -> tuple[str, ...]:
    """Return pytest's options that leave out every installed plugin but ours."""
    names = metadata.entry_points(group="pytest11").names - {"nemoperf"}
    return tuple(f"-pno:{name}" for name in sorted(names))


def write_project(folder: Path, *, cases: int) -> None:
    """Write a project of so many perf cases, each with its baseline for this machine."""
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = perf: performance-regression test\n", encoding="utf-8")
    (folder / "test_cases.py").write_text(PERF_TESTS.format(cases=cases), encoding="utf-8")
    system = find_system("cpu")
    devices = detect_devices()
    machine = machine_key(system, devices=devices)
    source = provenance(system, devices=devices, code=code_version(folder))
    run = Run(
        metrics={"tokens_per_sec_per_gpu": 12800.0, "tflops_per_sec_per_gpu": 0.0128, "step_time_sec": 0.005},
        phases={"forward": 0.002, "backward": 0.003},
        num_steps=10,
        step_time_mad_pct=1.0,
    )
    for number in range(cases):
        baseline = Baseline(
            case=f"pretrain-llama-tiny-1n1g-torch-bf16-seq64-gbs1-mbs1-v{number:05d}",
            system="cpu",
            machine=machine,
            workload={"workload": "pretrain", "seq_len": 64, "variant": f"v{number:05d}"},
            runs=(run, run, run),
            provenance=source,
            reason="benchmark",
            flops_per_token=1e6,
            flops_convention=DEFAULT_CONVENTION,
        )
        write_baseline(folder / "baselines", baseline=baseline)


def compare(commands: Sequence[Command], *, rounds: int) -> None:
    """Run each command several times, in turns, after one round that fills caches and does not count."""
    for command in commands:
        command.run()
        command.wall_sec.clear()
        command.user_sec.clear()
    for number in range(rounds):
        order = list(commands)
        if number % 2 == 0:
            order.reverse()
        for command in order:
            command.run()


def show(title: str, *, on: Command, off: Command, goal_sec: float) -> None:
    """Print both commands' times and the differences of each round."""
    wall = differences(on.wall_sec, off.wall_sec)
    user = differences(on.user_sec, off.user_sec)
    rows = [
        row(on.name, wall=on.wall_sec, user=on.user_sec),
        row(off.name, wall=off.wall_sec, user=off.user_sec),
        row(f"**more, round by round** (goal {goal_sec:g})", wall=wall, user=user),
    ]
    low, high = median_interval(wall)
    print(f"{title}, {len(wall)} rounds\n")
    print(markdown_table(["", "wall s: median (min to max)", "user CPU s"], rows=rows))
    print(f"\n95% interval of the median difference: {low:.3f} to {high:.3f} s wall\n")


def differences(own: Sequence[float], bare: Sequence[float]) -> list[float]:
    """Return the differences of the same rounds."""
    return [mine - other for mine, other in zip(own, bare, strict=True)]


def row(name: str, *, wall: Sequence[float], user: Sequence[float]) -> list[str]:
    """Return a line of the table, times in seconds."""
    return [name, spread(wall, digits=3), spread(user, digits=3)]


def show_imports(command: Command) -> None:
    """Print the modules of ours that take longest to import in a command."""
    # Entry points load modules in a way that importtime does not see, an import statement before it does.
    program = "import sys, pytest, pytest_nemoperf.plugin.entry; sys.exit(pytest.main(sys.argv[1:]))"
    done = start_python("-X", "importtime", "-c", program, *command.arguments, folder=command.folder)
    found = re.findall(r"import time:\s+(\d+) \|\s+(\d+) \|\s+(pytest_nemoperf\S*)", done.stderr)
    times: Mapping[str, tuple[int, int]] = {name: (int(own), int(total)) for own, total, name in found}
    slowest = sorted(times, key=lambda name: times[name][1], reverse=True)[:NUM_MODULES_SHOWN]
    rows = [[f"`{name}`", f"{times[name][0] / 1e3:.1f}", f"{times[name][1] / 1e3:.1f}"] for name in slowest]
    own_sum = sum(own for own, _ in times.values())
    rows.append([f"all {len(times)} of our modules", f"{own_sum / 1e3:.1f}", ""])
    print(f"Imports, {command.name}, once, by -X importtime\n")
    print(markdown_table(["module", "itself, ms", "with what it imports first, ms"], rows=rows))
    print()


def main() -> None:
    """Build the project, compare, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tempfile.tempdir = folder  # locks of the baselines go there, and go with it
        collect_both(root / "cases", cases=arguments.cases, rounds=arguments.rounds)
        start_both(root / "empty", rounds=arguments.rounds * START_ROUNDS_PER_ROUND)
        tempfile.tempdir = None
    print(machine_line())


def collect_both(folder: Path, *, cases: int, rounds: int) -> None:
    """Collect the cases with the plugin and without."""
    write_project(folder, cases=cases)
    expected = f"{cases} tests collected"
    alone = ("--collect-only", "-q", *without_others())
    on = Command(
        name="-m perf --system=cpu", arguments=(*alone, "-m", "perf", "--system=cpu"), folder=folder, expected=expected
    )
    off = Command(name="-p no:nemoperf", arguments=(*alone, "-pno:nemoperf"), folder=folder, expected=expected)
    compare([on, off], rounds=rounds)
    show(f"Collection of {cases} perf cases with baselines", on=on, off=off, goal_sec=COLLECTION_GOAL_SEC)
    show_imports(on)


def start_both(folder: Path, *, rounds: int) -> None:
    """Start pytest on an empty file with the plugin and without."""
    folder.mkdir()
    (folder / "test_empty.py").touch()
    alone = ("-q", "test_empty.py", *without_others())
    on = Command(
        name="installed",
        arguments=alone,
        folder=folder,
        expected="no tests ran",
        exit_code=pytest.ExitCode.NO_TESTS_COLLECTED,
    )
    off = replace(on, name="-p no:nemoperf", arguments=(*alone, "-pno:nemoperf"), wall_sec=[], user_sec=[])
    compare([on, off], rounds=rounds)
    show("Start of pytest on an empty file", on=on, off=off, goal_sec=START_GOAL_SEC)
    show_imports(on)


if __name__ == "__main__":
    main()
