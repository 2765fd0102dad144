"""Synthetic traces with known truth: whole launches with their steps, as machines of several kinds make them.

A trace is an array of step times in seconds, (trials, launches, steps). The first MAX_BASELINE_RUNS launches may be
the baseline (the last of them are taken, they lie next to today's), the others are today's. The steps begin with
NUM_SLOW_STEPS that are three times as slow. A shift is multiplied into today's launches; see shifted().
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pytest_nemoperf.verdict.defaults import DEFAULT_MAX_RUNS

Times = NDArray[np.float64]

MAX_BASELINE_RUNS = 10
MAX_RUNS = DEFAULT_MAX_RUNS
NUM_LAUNCHES = MAX_BASELINE_RUNS + MAX_RUNS
NUM_WARMUP = 5
NUM_SLOW_STEPS = 2
NUM_STEPS = NUM_WARMUP + 20
SHIFTS_PCT = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """How the steps of a launch scatter.

    Attributes:
        noise_pct: Scale of the usual steps.
        dof: Degrees of freedom of Student's t that they follow; small is heavy-tailed.
        stall_share: Share of steps that stall.
        stall_pct: Mean of what a stall adds, exponential.
    """

    noise_pct: float
    dof: float = 30.0
    stall_share: float = 0.0
    stall_pct: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of machine, and what is asked of a verdict there.

    Attributes:
        name: Short name.
        title: What happens there.
        tolerance_pct: The smallest loss that matters.
        prior_pct: Noise between launches that the rule is told to expect.
        is_variant: The traces are those of another one, told something else; or there to show what breaks the rule.
        draw: Makes the step times of so many trials.
    """

    name: str
    title: str
    tolerance_pct: float
    prior_pct: float
    is_variant: bool
    draw: Callable[[np.random.Generator, int], Times]


def shifted(times: Times, *, shift_pct: float) -> Times:
    """Return the trials with today's launches slowed down so that their throughput is shift_pct lower."""
    slowed = times.copy()
    slowed[:, MAX_BASELINE_RUNS:] /= 1.0 - shift_pct / 100.0
    return slowed


def run_costs(times: Times) -> Times:
    """Return the logarithm of the median step of each launch, warm-up left out: (trials, launches)."""
    return np.log(np.median(times[..., NUM_WARMUP:], axis=-1))


def _launches(rng: np.random.Generator, trials: int, *, noise_pct: float, correlation: float = 0.0) -> Times:
    """Return the logarithms of levels, (trials, launches): normal, each correlated with the one before."""
    fresh = rng.standard_normal((trials, NUM_LAUNCHES)) * noise_pct / 100.0
    levels = fresh.copy()
    for launch in range(1, NUM_LAUNCHES):
        levels[:, launch] = correlation * levels[:, launch - 1] + math.sqrt(1.0 - correlation**2) * fresh[:, launch]
    return levels


def _with_steps(rng: np.random.Generator, levels: Times, *, steps: Steps) -> Times:
    shape = (*levels.shape, NUM_STEPS)
    usual = rng.standard_t(steps.dof, shape) * steps.noise_pct / 100.0
    stalls = (rng.random(shape) < steps.stall_share) * rng.exponential(steps.stall_pct / 100.0, shape)
    times = np.exp(levels[..., None] + np.clip(usual, -0.5, 3.0)) * (1.0 + stalls)
    times[..., :NUM_SLOW_STEPS] *= 3.0
    return times


def _plain(rng: np.random.Generator, trials: int, *, noise_pct: float, steps: Steps, correlation: float = 0.0) -> Times:
    return _with_steps(rng, _launches(rng, trials, noise_pct=noise_pct, correlation=correlation), steps=steps)


def _bimodal(rng: np.random.Generator, trials: int, *, noise_pct: float, apart_pct: float, steps: Steps) -> Times:
    levels = _launches(rng, trials, noise_pct=noise_pct)
    levels += (rng.random(levels.shape) < 0.5) * apart_pct / 100.0
    return _with_steps(rng, levels, steps=steps)


def _stalling(rng: np.random.Generator, trials: int, *, noise_pct: float, share: float, steps: Steps) -> Times:
    levels = _launches(rng, trials, noise_pct=noise_pct)
    levels += (rng.random(levels.shape) < share) * rng.uniform(0.1, 0.5, levels.shape)
    return _with_steps(rng, levels, steps=steps)


def _another_day(
    rng: np.random.Generator, trials: int, *, noise_pct: float, day_pct: float, scatter: float, steps: Steps
) -> Times:
    """Today has a level of its own, or scatters more than the baseline did."""
    levels = _launches(rng, trials, noise_pct=noise_pct)
    levels[:, MAX_BASELINE_RUNS:] *= scatter
    levels[:, MAX_BASELINE_RUNS:] += rng.standard_normal((trials, 1)) * day_pct / 100.0
    return _with_steps(rng, levels, steps=steps)


_QUIET_STEPS = Steps(noise_pct=0.5, stall_share=0.01, stall_pct=20.0)
_HEAVY_STEPS = Steps(noise_pct=1.0, dof=3.0, stall_share=0.03, stall_pct=50.0)
_SHARED_STEPS = Steps(noise_pct=5.0, dof=3.0, stall_share=0.05, stall_pct=100.0)
_STALL_STEPS = Steps(noise_pct=0.5, dof=5.0, stall_share=0.02, stall_pct=500.0)

_quiet = partial(_plain, noise_pct=0.3, steps=_QUIET_STEPS)
_cluster = partial(_plain, noise_pct=1.2, steps=_HEAVY_STEPS)
_shared = partial(_plain, noise_pct=4.5, steps=_SHARED_STEPS, correlation=0.5)
_two_clocks = partial(_bimodal, noise_pct=0.3, apart_pct=3.0, steps=_QUIET_STEPS)
_stalls = partial(_stalling, noise_pct=0.5, share=0.02, steps=_STALL_STEPS)

_day_effect = partial(_another_day, noise_pct=0.5, day_pct=1.0, scatter=1.0, steps=_QUIET_STEPS)
_noisy_day = partial(_another_day, noise_pct=0.5, day_pct=0.0, scatter=3.0, steps=_QUIET_STEPS)

SCENARIOS = tuple(
    Scenario(name=name, title=title, tolerance_pct=tolerance, prior_pct=prior, is_variant=is_variant, draw=draw)
    for name, title, tolerance, prior, is_variant, draw in (
        ("quiet", "quiet GPU, 0.3% between launches", 3.0, 0.3, False, _quiet),
        ("cluster", "noisy cluster, 1.2% between launches, heavy-tailed steps", 5.0, 1.2, False, _cluster),
        ("shared CPU", "4.5% between launches, each correlated 0.5 with the one before", 20.0, 4.0, False, _shared),
        ("two clocks", "launches at one of two clocks 3% apart, by chance", 5.0, 1.0, False, _two_clocks),
        ("stalls", "0.5% between launches; 2% of steps and 2% of whole launches stall", 5.0, 1.0, False, _stalls),
        ("quiet, told 0.6%", "twice its noise", 3.0, 0.6, True, _quiet),
        ("quiet, told 0.15%", "half its noise", 3.0, 0.15, True, _quiet),
        ("quiet, told 1.0%", "what the catalog says of GPUs", 5.0, 1.0, True, _quiet),
        ("cluster, told 2.4%", "twice its noise", 5.0, 2.4, True, _cluster),
        ("cluster, told 0.6%", "half its noise", 5.0, 0.6, True, _cluster),
        ("cluster, told 1.0%", "what the catalog says of GPUs", 5.0, 1.0, True, _cluster),
        (
            "another day",
            "0.5% between launches, 1% between days: launches are not independent",
            5.0,
            1.0,
            True,
            _day_effect,
        ),
        ("noisy day", "0.5% between launches of the baseline, 1.5% today", 5.0, 1.0, True, _noisy_day),
    )
)
