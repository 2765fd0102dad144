"""Time of the commands that read a thousand cases: ``nemoperf page``, ``show`` and ``compare``.

A temporary project gets a thousand baselines of pre-training on h100, five runs each, and a release of them. Whole
processes run in turns, so start and imports of Python are part of their times; ``nemoperf flops`` has little more than
these. The page has a block of tables for the thousand rows, with their details.

``python benchmarks/pages.py [--rounds N] [--cases N]``
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tables import machine_line, markdown_table, spread

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.measure.measurement import Run, workload_of
from pytest_nemoperf.pages.releases import frozen, release_path, write_release
from pytest_nemoperf.pages.stored_rows import baseline_rows
from pytest_nemoperf.recipes.recipe import Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.metrics import FLOPS_PER_TFLOP
from pytest_nemoperf.records.provenance import Provenance

GOAL_SEC = 1.0
NUM_RUNS = 5
TEMPLATE = """\
# Performance

<!-- nemoperf:begin metrics -->
<!-- nemoperf:end -->

## Measured

### Now

<!-- nemoperf:begin tables frameworks=megatron systems=h100 -->
<!-- nemoperf:end -->

<!-- nemoperf:begin notes -->
<!-- nemoperf:end -->
"""
COMMANDS = {
    "start alone: flops": ("flops", "llama3-8b", "--seq-len", "8192"),
    "page of the rows": ("page", "--template", "template.md", "--output", "new.md"),
    "page --check": ("page", "--check", "page.md"),
    "page dfm": ("page", "dfm", "--output", "dfm.md"),
    "show": ("show", "h100"),
    "show --csv": ("show", "h100", "--format", "csv"),
    "compare with a release": ("compare", "release:0.4", "system:h100"),
    "release --dry-run": ("release", "0.5", "--dry-run"),
}
"""Words of each command."""


def make_baselines(folder: Path, *, cases: int) -> None:
    """Write the baselines of as many cases: llama3-8b, each with a variant of its own."""
    generator = random.Random(1)  # noqa: S311 (no secrets here)
    system = find_system("h100")
    layouts = {"h100": Layout(gpus=8, dp_shard=8)}
    (folder / "h100").mkdir(parents=True)
    for number in range(cases):
        recipe = Recipe(
            model="llama3-8b",
            layouts=layouts,
            seq_len=8192,
            global_batch_size=128,
            precision=Precision.BF16,
            framework="megatron",
            variant=f"v{number:04d}",
        )
        plan = resolve(recipe, system=system)
        runs = tuple(make_runs(generator, flops_per_token=plan.flops_per_token))
        baseline = Baseline(
            case=plan.case,
            system="h100",
            machine={"gpu": "NVIDIA H100 80GB HBM3", "gpus": 8},
            workload=workload_of(plan),
            runs=runs,
            provenance=Provenance(
                date="2026-11-30T00:00:00+00:00",
                git_commit="0" * 40,
                git_dirty=False,
                versions={"torch": "2.8.0", "megatron-core": "0.15.0"},
                command="pytest -m perf --system=h100 --update-baselines",
            ),
            reason="benchmark",
            flops_per_token=plan.flops_per_token,
            flops_convention=plan.flops_convention,
        )
        (folder / "h100" / f"{plan.case}.json").write_text(to_json(baseline), encoding="utf-8")


def make_runs(generator: random.Random, *, flops_per_token: float) -> Iterator[Run]:
    """Yield runs of a case around a rate of its own, with a scatter of half a percent."""
    rate = generator.uniform(8000, 14000)
    for _ in range(NUM_RUNS):
        tokens_per_sec = rate * generator.gauss(1.0, 0.005)
        metrics = {
            "tokens_per_sec_per_gpu": tokens_per_sec,
            "tflops_per_sec_per_gpu": tokens_per_sec * flops_per_token / FLOPS_PER_TFLOP,
            "step_time_sec": 128 * 8192 / (8 * tokens_per_sec),
            "peak_memory_gib": 61.0,
        }
        yield Run(
            metrics=metrics,
            phases={},
            num_steps=20,
            last_step=24,
            loss=6.1,
            grad_norm=1.9,
            step_time_mad_pct=0.3,
            rank_spread_pct=0.5,
            session="2026-11-30T00:00:00+00:00",
        )


def seconds_of(words: tuple[str, ...], *, folder: Path) -> tuple[float, float]:
    """Return the wall time of a command's process, and its processor time, which a busy machine changes less."""
    code = "import sys; from pytest_nemoperf.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *words]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"nemoperf {' '.join(words)} failed ({done.returncode}): {done.stderr.strip()}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return elapsed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Make the project, run the commands in turns, print their times."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", type=int, default=1000)
    arguments = parser.parse_args()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        baselines = project / "baselines"
        make_baselines(baselines, cases=arguments.cases)
        rows = list(baseline_rows(baselines))
        release = frozen(rows, name="0.4", date="2026-11-30", previous="")
        write_release(release_path(baselines, name="0.4"), release=release)
        (project / "template.md").write_text(TEMPLATE, encoding="utf-8")
        seconds_of(("page", "--template", "template.md", "--output", "page.md"), folder=project)
        for _ in range(arguments.rounds):
            for name, words in COMMANDS.items():
                for written in ("new.md", "dfm.md"):
                    (project / written).unlink(missing_ok=True)
                times[name].append(seconds_of(words, folder=project))
        size = (project / "page.md").stat().st_size
    print(f"{arguments.cases:,} cases of {NUM_RUNS} runs; the page has {size / 1e6:.1f} MB\n")
    table = []
    for name, values in times.items():
        table.append((name, spread([wall for wall, _ in values]), spread([cpu for _, cpu in values])))
    print("Seconds, median (smallest to largest):\n")
    print(markdown_table(["command", "elapsed", "of processor"], rows=table))
    print(f"\nGoal: {GOAL_SEC:g} s for the page. {machine_line()}, {os.cpu_count()} CPUs")


if __name__ == "__main__":
    main()
