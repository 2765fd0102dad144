"""How often a run is called unsettled: rightly, for a ramp through its steps, and wrongly, for noise.

A run that is called so is launched once more; INVALID it is if that happens twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from recorded import Trace, is_unsettled
from scenarios import NUM_WARMUP, Times

from pytest_nemoperf.measure.steady_state import num_still_warming

RAMPS_PCT = (0.0, 5.0, 10.0, 20.0)
_NUM_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SettlingRow:
    """One kind of run: how often it was called unsettled by ramp, and how often steps were dropped without one."""

    name: str
    runs: int
    unsettled_pct: tuple[float, ...]
    dropping_pct: float


def settling_rows(traces: Sequence[Trace], *, runs: int, seed: int) -> list[SettlingRow]:
    """Return a row for each kind of simulated run, and one for the launches of each recording."""
    rng = np.random.default_rng([seed, *b"settling"])
    kinds = (
        ("steps of 0.5%", 0.5, 0.0),
        ("2%, heavy tails", 2.0, 0.0),
        ("5%, heavy tails, correlated 0.3", 5.0, 0.3),
        ("10%, heavy tails, correlated 0.5", 10.0, 0.5),
    )
    rows = [
        _row(name, _simulated(rng, runs, noise_pct=noise, correlation=correlation))
        for name, noise, correlation in kinds
    ]
    return rows + [_row(trace.name, trace.recorded[len(trace.recorded) // 2 :, NUM_WARMUP:]) for trace in traces]


def _simulated(rng: np.random.Generator, runs: int, *, noise_pct: float, correlation: float) -> Times:
    fresh = rng.standard_t(3.0, (runs, _NUM_STEPS)) * noise_pct / 100.0
    noise = fresh.copy()
    for step in range(1, _NUM_STEPS):
        noise[:, step] = correlation * noise[:, step - 1] + math.sqrt(1.0 - correlation**2) * fresh[:, step]
    return np.exp(np.clip(noise, -0.5, 1.0))


def _row(name: str, times: Times) -> SettlingRow:
    steps = np.linspace(0.0, 1.0, times.shape[1])
    shares = []
    for ramp in RAMPS_PCT:
        found = [is_unsettled(run) for run in (times * (1.0 + steps * ramp / 100.0)).tolist()]
        shares.append(100.0 * sum(found) / len(found))
    dropping = [num_still_warming(run) > 0 for run in times.tolist()]
    return SettlingRow(
        name=name,
        runs=len(times),
        unsettled_pct=tuple(shares),
        dropping_pct=100.0 * sum(dropping) / len(dropping),
    )
