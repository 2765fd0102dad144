"""Agreement of the ways to measure a script that is not ours: by its log, by a callback, and by a clock outside.

Needs the trainers (``make .venv-trainers/.ready``), and runs with their Python. A run of a script has its event files,
in the runs with the two lines the callback's records, and always the clock of this process, which sees each step's line
appear. So the ways are compared on the very same steps. Runs with and without the lines take turns: the clock outside
says what the lines themselves cost.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tables import machine_line, markdown_table, median_interval, ratios, spread

from pytest_nemoperf.frameworks.logged import context_of
from pytest_nemoperf.frameworks.steps import read_step_records
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.logs.reading import read_log
from pytest_nemoperf.recipes.recipe import Plan, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.step import PLAN_FILE, STEPS_FILE, StepRecord, measured_steps

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
CONSOLE = "console.log"
OPTIONS = (
    "--output_dir=output",
    "--use_cpu",
    "--report_to=tensorboard",
    "--logging_steps=1",
    "--save_strategy=no",
    "--disable_tqdm=true",
)
GRPO = RL(
    num_prompts_per_step=8,
    num_generations_per_prompt=4,
    prompt_len=16,
    max_response_len=64,
    response_lengths="sampled",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A script of docs/examples, with the lines and without.

    Attributes:
        title: Name in the tables.
        with_lines: The script that has them.
        unchanged: The same without.
        options: Flags of both.
        log_formats: Presets that read its log.
    """

    title: str
    with_lines: str
    unchanged: str
    options: tuple[str, ...]
    log_formats: tuple[str, ...]


WORKLOADS = (
    Workload(
        title="Trainer",
        with_lines="trainer/train.py",
        unchanged="unchanged/hf_trainer.py",
        options=("--model=tiny", "--per_device_train_batch_size=8"),
        log_formats=("trainer",),
    ),
    Workload(
        title="TRL GRPO",
        with_lines="trl_grpo/train.py",
        unchanged="unchanged/trl_grpo.py",
        options=(
            "--model_name_or_path=tiny",
            "--bf16=false",
            "--per_device_train_batch_size=32",
            "--num_generations=4",
            "--max_completion_length=64",
        ),
        log_formats=("trl", "trl_console"),
    ),
)


def plan_of(workload: Workload, *, config: Path, steps: int) -> Plan:
    """Return the plan of a workload."""
    is_rl = workload.title == "TRL GRPO"
    recipe = Recipe(
        model=str(config),
        model_name="tiny",
        layouts={"cpu": Layout(gpus=1)},
        seq_len=80 if is_rl else 128,
        global_batch_size=32 if is_rl else 8,
        micro_batch_size=32 if is_rl else 8,
        precision="fp32",  # type: ignore[arg-type]  # a recipe takes the text
        rl=GRPO if is_rl else None,
        framework="command",
        command=("python", "train.py"),
        steps=steps,
    )
    return resolve(recipe, system=find_system("cpu"))


def median_ms(records: Sequence[StepRecord], *, plan: Plan) -> float:
    """Return the median step of a run after its warm-up, ms."""
    return 1e3 * statistics.median(
        record.step_time_sec for record in measured_steps(records, warmup_steps=plan.warmup_steps)
    )


def run_script(
    workload: Workload, *, script: str, plan: Plan, model: Path, run_dir: Path, num_threads: int
) -> dict[str, float]:
    """Run a script once; return the median step by each way, ms.

    Raises:
        RuntimeError: If it fails.
    """
    run_dir.mkdir()
    (run_dir / "tiny").symlink_to(model)
    (run_dir / PLAN_FILE).write_text(to_json(plan), encoding="utf-8")
    env = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(num_threads),
        "PYTHONUNBUFFERED": "1",
        "TENSORBOARD_LOGGING_DIR": str(run_dir / "tensorboard"),
        "NEMOPERF_PLAN": str(run_dir / PLAN_FILE),
        "NEMOPERF_STEPS": str(run_dir / STEPS_FILE),
    }
    command = [sys.executable, str(EXAMPLES / script), *workload.options, *OPTIONS, f"--max_steps={plan.total_steps}"]
    ends = []
    lines = []
    with subprocess.Popen(
        command, cwd=run_dir, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "'loss'" in line:
                ends.append(time.perf_counter())
            lines.append(line)
    (run_dir / CONSOLE).write_text("".join(lines))
    if process.returncode or len(ends) != plan.total_steps:
        raise RuntimeError(
            f"{script} exited with {process.returncode} after {len(ends)} steps:\n{''.join(lines[-30:])}"
        )
    outside = [1e3 * (end - start) for start, end in pairwise(ends)]  # the first step has no beginning
    ways = {"outside": statistics.median(outside[plan.warmup_steps - 1 :])}
    for name in workload.log_formats:
        files = [run_dir / CONSOLE] if name.endswith("console") else list((run_dir / "tensorboard").rglob("*tfevents*"))
        ways[name] = median_ms(
            read_log(files, log_format=name, context=context_of(plan, log_format=name)).records, plan=plan
        )
    if (run_dir / STEPS_FILE).exists():
        records = read_step_records(run_dir / STEPS_FILE, total_steps=plan.total_steps)
        ways["callback"] = median_ms(records, plan=plan)
    return ways


def difference(values: Sequence[float], *, to: Sequence[float]) -> str:
    """Return the median difference of pairs in percent, smallest and largest, and the median's 95% interval."""
    percents = [100.0 * (ratio - 1.0) for ratio in ratios(values, to=to)]
    low, high = median_interval(percents)
    return f"{spread(percents)} %, median within {low:+.2f} to {high:+.2f} %"


def main() -> None:
    """Print a table a workload."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="runs of each script")
    parser.add_argument("--steps", type=int, default=30, help="measured steps of a run")
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of a script; more wait for each other when busy"
    )
    parser.add_argument("--only", choices=[workload.title for workload in WORKLOADS], help="one of the workloads")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "tiny"
        subprocess.run([sys.executable, str(EXAMPLES / "tiny_model.py"), str(model)], check=True, capture_output=True)
        for workload in WORKLOADS:
            if given.only not in (None, workload.title):
                continue
            plan = plan_of(workload, config=model / "config.json", steps=given.steps)
            with_lines: list[dict[str, float]] = []
            unchanged: list[dict[str, float]] = []
            for number in range(given.rounds):
                order = [(workload.with_lines, with_lines), (workload.unchanged, unchanged)]
                for script, results in order if number % 2 else reversed(order):
                    run_dir = folder / f"{workload.title}-{number}-{len(with_lines)}-{len(unchanged)}"
                    ways = run_script(
                        workload, script=script, plan=plan, model=model, run_dir=run_dir, num_threads=given.threads
                    )
                    results.append(ways)
            print_table(workload, with_lines=with_lines, unchanged=unchanged)
    print(machine_line())


def print_table(
    workload: Workload, *, with_lines: Sequence[dict[str, float]], unchanged: Sequence[dict[str, float]]
) -> None:
    """Print the ways of a workload beside the clock outside of the same runs."""
    print(f"\n{workload.title}: median step of a run, {len(with_lines)} runs of each script\n")
    rows = []
    for script, runs in (("with the lines", with_lines), ("unchanged", unchanged)):
        outside = [run["outside"] for run in runs]
        rows.append([f"{script}: clock outside", spread(outside), ""])
        for way in runs[0]:
            if way != "outside":
                values = [run[way] for run in runs]
                rows.append([f"{script}: {way}", spread(values), difference(values, to=outside)])
    print(markdown_table(["way", "ms", "beside the clock outside, same runs"], rows=rows))
    by_callback = [run["callback"] for run in with_lines]
    by_log = [run[workload.log_formats[0]] for run in with_lines]
    print(f"\ncallback beside the log of the same runs: {difference(by_callback, to=by_log)}")
    pairs = [run["outside"] for run in with_lines], [run["outside"] for run in unchanged]
    print(f"with the lines beside unchanged, clock outside, by rounds: {difference(pairs[0], to=pairs[1])}")


if __name__ == "__main__":
    main()
