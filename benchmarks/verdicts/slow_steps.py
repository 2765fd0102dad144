"""How often the rule for slow steps changes the verdict on equal code.

Run: ``python benchmarks/verdicts/slow_steps.py [--trials N]``, from the root of the repository. Prints a line for each
kind of machine, and for each recording of real launches; about five minutes of one core.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rates import REPORT_SEED
from recorded import load_traces, windows
from rules import policy_of
from scenarios import MAX_BASELINE_RUNS, MAX_RUNS, NUM_WARMUP, RUNS_OF_A_SESSION, SCENARIOS, Noise, Times

from pytest_nemoperf.baselines.baseline import Baseline
from pytest_nemoperf.measure.measurement import Run
from pytest_nemoperf.measure.steady_state import mad_pct, num_outliers, num_still_warming, slow_steps_pct
from pytest_nemoperf.records.metrics import STEP_TIME_SEC, TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.verdict.comparison import VerdictKind
from pytest_nemoperf.verdict.judge import judge
from pytest_nemoperf.verdict.policy import VerdictPolicy

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.builders import MACHINE, make_baseline, make_measurement

_MACHINES = ("quiet GPU", "cluster", "shared CPU", "stalls")
_NUM_STEPS = (10, 20)


def main() -> None:
    """Judge every trial with and without the mean step, and print how many verdicts differ."""
    parser = argparse.ArgumentParser(description="false alarms of the rule for slow steps")
    parser.add_argument("--trials", type=int, default=2_000, help="of each machine (default 2000)")
    arguments = parser.parse_args()
    for scenario in SCENARIOS:
        if scenario.name not in _MACHINES:
            continue
        drawn = scenario.draw(np.random.default_rng(REPORT_SEED), arguments.trials)
        trials = drawn.times[:, MAX_BASELINE_RUNS - RUNS_OF_A_SESSION :]
        for steps in _NUM_STEPS:
            cut = trials[..., NUM_WARMUP : NUM_WARMUP + steps]
            _report(f"{scenario.name}, {steps} steps", cut, scenario.system, scenario.truth)
    for trace in load_traces():
        trials = windows(trace.times)
        chosen = np.random.default_rng(REPORT_SEED).permutation(len(trials))[: arguments.trials]
        _report(trace.name, trials[chosen][..., NUM_WARMUP:], "cpu", None)


def _report(name: str, trials: Times, system: str, told: Noise | None) -> None:
    for max_runs in (MAX_RUNS, 1):
        policy = replace(policy_of(system, told=told, is_confirmed=False), max_runs=max_runs, min_runs=min(2, max_runs))
        changed: Counter[str] = Counter()
        launches = [0, 0]
        for trial in trials:
            runs = [_run_of(times.tolist()) for times in trial]
            baseline = make_baseline((), runs=tuple(runs[:RUNS_OF_A_SESSION]))
            now = runs[RUNS_OF_A_SESSION:]
            blind = [replace(run, slow_steps_pct=None) for run in now]
            (before, few), (after, more) = (_session(side, baseline=baseline, policy=policy) for side in (blind, now))
            launches = [launches[0] + few, launches[1] + more]
            if before is not after:
                changed[f"{before} -> {after}"] += 1
        means = " -> ".join(f"{count / len(trials):.3f}" for count in launches)
        print(
            f"{name}, at most {max_runs} launches: changed {dict(changed)} of {len(trials)}; launches {means}",
            flush=True,
        )


def _session(runs: Sequence[Run], *, baseline: Baseline, policy: VerdictPolicy) -> tuple[VerdictKind, int]:
    """Return the verdict of a session that launches while it is open, and how many launches that took."""
    for number in range(1, policy.max_runs + 1):
        measurement = make_measurement((), runs=tuple(runs[:number]))
        kind = judge(measurement, baseline=baseline, machine=MACHINE, policy=policy).kind
        if kind is not VerdictKind.INCONCLUSIVE:
            break
    return kind, number


def _run_of(times: list[float]) -> Run:
    dropped = num_still_warming(times)
    counted = times[dropped:]
    middle = statistics.median(counted)
    return Run(
        metrics={TOKENS_PER_SEC_PER_GPU.name: 100.0 / middle, STEP_TIME_SEC.name: middle},
        num_steps=len(counted),
        num_warmup_dropped=dropped,
        num_outliers=num_outliers(counted),
        slow_steps_pct=slow_steps_pct(times, num_dropped=dropped),
        step_time_mad_pct=mad_pct(counted),
    )


if __name__ == "__main__":
    main()
