"""Launches of one session that were recorded for real, one after the other; the catalog's noise of `cpu` is from them.

The first half of each recording was for tuning, the second half is reported.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scenarios import MAX_RUNS, NUM_WARMUP, RUNS_OF_A_SESSION, Times, run_costs

from pytest_nemoperf.measure.steady_state import find_drift, num_still_warming

FOLDER = Path(__file__).parent / "traces"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Launches of one case, one after the other: step times in seconds, (launches, steps).

    Attributes:
        name: Name of the file.
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
    """Return whether a session would launch again, from the measured steps of a launch."""
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
    """Return the share of a launch's deviation that the next one repeats."""
    costs: list[float] = run_costs(times).tolist()
    middle = statistics.fmean(costs)
    return sum((a - middle) * (b - middle) for a, b in pairwise(costs)) / sum((a - middle) ** 2 for a in costs)


def windows(times: Times) -> Times:
    """Return every pair of a block of launches and a later block, (pairs, launches, steps): a baseline and today."""
    last = len(times) - MAX_RUNS
    pairs = []
    for start in range(last + 1):
        for now in range(start + RUNS_OF_A_SESSION, last + 1):
            pairs.append(np.concatenate([times[start : start + RUNS_OF_A_SESSION], times[now : now + MAX_RUNS]]))
    return np.stack(pairs)
