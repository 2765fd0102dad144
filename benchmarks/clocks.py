"""Compare the step times of one run by four clocks: outside its process, its event files, its console, a callback.

The outer clock reads the process's pipe and takes the time at which each step's line arrives. What the other three say
of the same steps is compared with it, so that neither the load of the machine nor the spread between runs matters.
The runs are the examples of docs/examples that have our callback, unchanged.

Run it with the trainers' environment: ``make test-trainers`` makes it, then
``.venv-trainers/bin/python benchmarks/clocks.py [--rounds N] [--steps N]``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tables import machine_line, markdown_table, spread

from pytest_nemoperf.frameworks.logged import context_of
from pytest_nemoperf.frameworks.steps import read_step_records
from pytest_nemoperf.json_codec import to_json
from pytest_nemoperf.layouts.layout import Layout
from pytest_nemoperf.logs.reading import find_log_files, read_log
from pytest_nemoperf.recipes.recipe import Plan, Precision, Recipe
from pytest_nemoperf.recipes.resolve import resolve
from pytest_nemoperf.recipes.rl import RL
from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.records.step import PLAN_FILE, STEPS_FILE, StepRecord

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
WARMUP_STEPS = 3
OUTSIDE = "outside"
FLAGS = ("--logging_steps=1", "--use_cpu", "--report_to=tensorboard", "--save_strategy=no")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A script, and the formats of the logs that it writes.

    Attributes:
        script: Below docs/examples.
        arguments: Its own, ``{model}`` for the folder of the model.
        log_format: Of its event files.
        console_format: Of what it prints; empty if that tells no time.
        rl: Reinforcement learning; None for other workloads.
    """

    script: str
    arguments: tuple[str, ...]
    log_format: str
    console_format: str = ""
    rl: RL | None = None


JOBS: Mapping[str, Job] = {
    "Trainer": Job(script="trainer/train.py", arguments=("--model={model}",), log_format="trainer"),
    "TRL GRPO": Job(
        script="trl_grpo/train.py",
        arguments=(
            "--model_name_or_path={model}",
            "--bf16=false",
            "--gradient_checkpointing=false",
            "--per_device_train_batch_size=32",
            "--num_generations=4",
            "--max_completion_length=64",
        ),
        log_format="trl",
        console_format="trl_console",
        rl=RL(
            num_prompts_per_step=8,
            num_generations_per_prompt=4,
            prompt_len=16,
            max_response_len=64,
            response_lengths="sampled",
        ),
    ),
}


def plan_of(job: Job, *, model: Path, steps: int) -> Plan:
    """Return the plan of a job."""
    recipe = Recipe(
        model=str(model / "config.json"),
        model_name="tiny",
        layouts={"cpu": Layout(gpus=1)},
        seq_len=128,
        global_batch_size=8 if job.rl is None else job.rl.num_samples,
        precision=Precision.FP32,
        rl=job.rl,
        framework="command",
        command=("python", job.script),
        steps=steps,
        warmup_steps=WARMUP_STEPS,
    )
    return resolve(recipe, system=find_system("cpu"))


def run(job: Job, *, plan: Plan, model: Path, folder: Path) -> dict[str, list[float]]:
    """Run a job once; return the seconds of its measured steps by clock."""
    (folder / PLAN_FILE).write_text(to_json(plan), encoding="utf-8")
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard"),
        "NEMOPERF_RUN_DIR": str(folder),
        "NEMOPERF_PLAN": str(folder / PLAN_FILE),
        "NEMOPERF_STEPS": str(folder / STEPS_FILE),
    }
    arguments = [argument.replace("{model}", str(model)) for argument in job.arguments]
    arguments += [*FLAGS, f"--output_dir={folder / 'output'}", f"--max_steps={plan.total_steps}"]
    arrivals = []
    with (
        (folder / "errors.log").open("w") as errors,
        (folder / "console.log").open("w") as console,
        subprocess.Popen(
            [sys.executable, str(EXAMPLES / job.script), *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if "'loss': " in line:
                arrivals.append(time.perf_counter())
            console.write(line)
    if process.returncode:
        raise RuntimeError(f"{job.script} failed: {(folder / 'errors.log').read_text()[-2000:]}")
    outside = [later - earlier for earlier, later in pairwise(arrivals)]
    files = find_log_files("{run_dir}/tensorboard", run_dir=folder, cwd=folder)
    seconds = {
        OUTSIDE: outside[WARMUP_STEPS - 1 :],
        "event files": _seconds(read_log(files, log_format=job.log_format, context=context_of(plan)).records),
    }
    if job.console_format:
        reading = read_log([folder / "console.log"], log_format=job.console_format, context=context_of(plan))
        seconds["console"] = _seconds(reading.records)
    seconds["callback"] = _seconds(read_step_records(folder / STEPS_FILE, total_steps=plan.total_steps))
    return seconds


def _seconds(records: Sequence[StepRecord]) -> list[float]:
    return [record.step_time_sec for record in records[WARMUP_STEPS:]]


def rows_of(rounds: Sequence[Mapping[str, Sequence[float]]], *, name: str) -> list[list[str]]:
    """Return a row for each clock: median step, and the difference to the outer clock over all steps of a round."""
    rows = []
    for clock in rounds[0]:
        steps = [seconds for each in rounds for seconds in each[clock]]
        differences = []
        for each in rounds:
            differences.append(100 * (sum(each[clock]) / sum(each[OUTSIDE]) - 1))
        rows.append([name, clock, f"{1e3 * statistics.median(steps):.1f}", spread(differences)])
    return rows


def main() -> None:
    """Run each job in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    given = parser.parse_args()
    measured: dict[str, list[dict[str, list[float]]]] = {name: [] for name in JOBS}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        model = root / "model"
        subprocess.run([sys.executable, str(EXAMPLES / "tiny_model.py"), str(model)], check=True, capture_output=True)
        for number in range(given.rounds):
            for job_name, job in JOBS.items():
                folder = root / f"{number}-{job_name.replace(' ', '-')}"
                folder.mkdir()
                plan = plan_of(job, model=model, steps=given.steps)
                measured[job_name].append(run(job, plan=plan, model=model, folder=folder))
    rows = []
    for job_name, rounds in measured.items():
        rows += rows_of(rounds, name=job_name)
    print(markdown_table(["run", "clock", "step, ms", "over outside, % of all steps"], rows=rows))
    print(f"\n{given.rounds} rounds of {given.steps} steps; {machine_line()}")


if __name__ == "__main__":
    main()
