"""Error rates over launches that were recorded for real, with a loss multiplied in.

The first half of each recording was for tuning (the catalog's noise of `cpu` is from there), the second half is
reported. Baselines are blocks of consecutive launches and today's launches are a later block, so what one launch has
in common with the next stays in. Windows overlap: they are many fewer than they look, and get no interval.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from rates import MAIN_BASELINE, Cell, cell_of
from rules import RULES, Question
from scenarios import MAX_BASELINE_RUNS, MAX_RUNS, NUM_WARMUP, Times, run_costs, shifted

from pytest_nemoperf.measure.steady_state import find_drift, num_still_warming
from pytest_nemoperf.recipes.systems import find_system

FOLDER = Path(__file__).parent / "traces"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Launches of one case, one after the other: step times in seconds, (launches, steps).

    Attributes:
        name: Of the file.
        recorded: Every launch.
        times: Those whose steps settled: a session drops the others.
    """

    name: str
    recorded: Times
    times: Times

    def half(self, *, is_second: bool) -> Times:
        """Return the settled launches for tuning, or those for reporting."""
        middle = len(self.times) // 2
        return self.times[middle:] if is_second else self.times[:middle]


def is_unsettled(times: list[float]) -> bool:
    """Tell whether a session would launch again, from the measured steps of a launch."""
    return find_drift(times[num_still_warming(times) :]) is not None


def load_traces() -> list[Trace]:
    """Return every recording of launches, by name."""
    traces = []
    for path in sorted(FOLDER.glob("cpu-*.json")):
        launches = json.loads(path.read_text(encoding="utf-8"))["launches"]
        settled = [launch for launch in launches if not is_unsettled(launch[NUM_WARMUP:])]
        traces.append(Trace(name=path.stem, recorded=np.array(launches), times=np.array(settled)))
    return traces


def noise_pct(times: Times) -> float:
    """Return the standard deviation between launches, in percent."""
    costs: list[float] = run_costs(times).tolist()
    return 100.0 * statistics.stdev(costs)


def autocorrelation(times: Times) -> float:
    """Return how much of a launch's deviation the next one repeats."""
    costs: list[float] = run_costs(times).tolist()
    middle = statistics.fmean(costs)
    return sum((a - middle) * (b - middle) for a, b in pairwise(costs)) / sum((a - middle) ** 2 for a in costs)


def windows(times: Times) -> Times:
    """Return every pair of a baseline's block and a later block, laid out as scenarios.py lays out trials."""
    unused = MAX_BASELINE_RUNS - MAIN_BASELINE
    last = len(times) - MAX_RUNS
    return np.stack(
        [
            np.concatenate([times[:unused], times[start : start + MAIN_BASELINE], times[now : now + MAX_RUNS]])
            for start in range(last + 1)
            for now in range(start + MAIN_BASELINE, last + 1)
        ]
    )


def recorded_cells(trace: Trace, *, shifts: Sequence[float]) -> list[Cell]:
    """Return every rule's counts on the reporting half of a recording."""
    system = find_system("cpu")
    question = Question(num_baseline=MAIN_BASELINE, tolerance_pct=system.tolerance_pct, prior_pct=system.run_noise_pct)
    trials = windows(trace.half(is_second=True))
    return [
        cell_of(
            [rule(shifted(trials, shift_pct=shift), question)],
            scenario=trace.name,
            rule=name,
            num_baseline=MAIN_BASELINE,
            shift_pct=shift,
        )
        for name, rule in RULES.items()
        for shift in shifts
    ]
