"""Synthetic sessions with known truth: launches with their steps, and rounds, on machines of several kinds.

A trial is a baseline of NUM_SESSIONS sessions (the last of them alone is the baseline of one session), the launches of
today, and the ratios of today's rounds side by side. The steps of a launch begin with NUM_SLOW_STEPS that are three
times as slow. A loss is multiplied into today's launches and rounds; see shifted().
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from pytest_nemoperf.recipes.systems import find_system
from pytest_nemoperf.verdict.defaults import CONFIRMING_ROUNDS, DEFAULT_MAX_RUNS, DEFAULT_RUNS

Times = NDArray[np.float64]

NUM_SESSIONS = 5
RUNS_OF_A_SESSION = DEFAULT_RUNS
MAX_BASELINE_RUNS = NUM_SESSIONS * RUNS_OF_A_SESSION
MAX_RUNS = DEFAULT_MAX_RUNS
NUM_LAUNCHES = MAX_BASELINE_RUNS + MAX_RUNS
NUM_ROUNDS = CONFIRMING_ROUNDS
NUM_WARMUP = 5
NUM_SLOW_STEPS = 2
NUM_STEPS = NUM_WARMUP + 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Standard deviations in percent: between launches of a session, between sessions, between rounds."""

    run_pct: float
    session_pct: float
    round_pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """Scatter of the steps of a launch.

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
class Trials:
    """Sessions with known truth.

    Attributes:
        times: Step times in seconds, (trials, launches, steps); those of the baseline first.
        rounds: Logarithms of new over old in today's rounds, (trials, rounds).
    """

    times: Times
    rounds: Times


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of machine.

    Attributes:
        name: Short name.
        title: What happens there.
        system: System of the catalog, for tolerances and for the noise that a project gets that says nothing.
        truth: Its noise, as a rule is told that knows it.
        draw: Makes so many trials.
    """

    name: str
    title: str
    system: str
    truth: Noise
    draw: Callable[[np.random.Generator, int], Trials]

    @property
    def tolerance_pct(self) -> float:
        """Loss that is allowed by default."""
        return find_system(self.system).tolerance_pct


def shifted(trials: Trials, *, cost: Times | float) -> Trials:
    """Return the trials with today slower, by a difference of logarithms: one for all, or one for each trial."""
    added = np.broadcast_to(np.asarray(cost, dtype=np.float64), (len(trials.times),))
    times = trials.times.copy()
    times[:, MAX_BASELINE_RUNS:] *= np.exp(added)[:, None, None]
    return Trials(times=times, rounds=trials.rounds + added[:, None])


def run_costs(times: Times) -> Times:
    """Return the logarithm of the median step of each launch, warm-up left out: (trials, launches)."""
    costs: Times = np.log(np.median(times[..., NUM_WARMUP:], axis=-1))
    return costs


def _launches(rng: np.random.Generator, trials: int, *, noise_pct: float, correlation: float = 0.0) -> Times:
    """Return the logarithms of launches within their session: normal, each correlated with the one before."""
    fresh = rng.standard_normal((trials, NUM_LAUNCHES)) * noise_pct / 100.0
    levels = fresh.copy()
    for launch in range(1, NUM_LAUNCHES):
        levels[:, launch] = correlation * levels[:, launch - 1] + math.sqrt(1.0 - correlation**2) * fresh[:, launch]
    return levels


def _with_sessions(levels: Times, *, sessions: Times) -> Times:
    """Return launches with the level of each session added, (trials, NUM_SESSIONS + 1); the last is today's."""
    counts = [RUNS_OF_A_SESSION] * NUM_SESSIONS + [MAX_RUNS]
    return levels + np.repeat(sessions, counts, axis=1)


def _with_steps(rng: np.random.Generator, levels: Times, *, steps: Steps) -> Times:
    shape = (*levels.shape, NUM_STEPS)
    usual = rng.standard_t(steps.dof, shape) * steps.noise_pct / 100.0
    stalls = (rng.random(shape) < steps.stall_share) * rng.exponential(steps.stall_pct / 100.0, shape)
    times: Times = np.exp(levels[..., None] + np.clip(usual, -0.5, 3.0)) * (1.0 + stalls)
    times[..., :NUM_SLOW_STEPS] *= 3.0
    return times


def _days(rng: np.random.Generator, trials: int, *, noise_pct: float) -> Times:
    return rng.standard_normal((trials, NUM_SESSIONS + 1)) * noise_pct / 100.0


def plain(
    rng: np.random.Generator, trials: int, *, noise: Noise, steps: Steps, correlation: float = 0.0, dof: float = 0.0
) -> Trials:
    """Normal launches, sessions and rounds; rounds of Student's t with so many degrees of freedom, if any."""
    levels = _launches(rng, trials, noise_pct=noise.run_pct, correlation=correlation)
    levels = _with_sessions(levels, sessions=_days(rng, trials, noise_pct=noise.session_pct))
    rounds = rng.standard_normal((trials, NUM_ROUNDS))
    if dof:
        rounds = rng.standard_t(dof, (trials, NUM_ROUNDS)) / math.sqrt(dof / (dof - 2.0))
    return Trials(times=_with_steps(rng, levels, steps=steps), rounds=rounds * noise.round_pct / 100.0)


def _two_speeds(rng: np.random.Generator, trials: int, *, noise: Noise, apart_pct: float, steps: Steps) -> Trials:
    """Each session runs at one of two speeds, by chance; its rounds do on both sides."""
    levels = _launches(rng, trials, noise_pct=noise.run_pct)
    slow = rng.random((trials, NUM_SESSIONS + 1)) < 0.5
    levels = _with_sessions(levels, sessions=np.where(slow, math.log1p(apart_pct / 100.0), 0.0))
    rounds = rng.standard_normal((trials, NUM_ROUNDS)) * noise.round_pct / 100.0
    return Trials(times=_with_steps(rng, levels, steps=steps), rounds=rounds)


def _drifting(rng: np.random.Generator, trials: int, *, noise: Noise, drift_pct: float, steps: Steps) -> Trials:
    """Each session is slower than the one before by the same."""
    levels = _launches(rng, trials, noise_pct=noise.run_pct)
    days: Times = np.tile(np.arange(NUM_SESSIONS + 1) * drift_pct / 100.0, (trials, 1))
    rounds = rng.standard_normal((trials, NUM_ROUNDS)) * noise.round_pct / 100.0
    return Trials(times=_with_steps(rng, _with_sessions(levels, sessions=days), steps=steps), rounds=rounds)


def stalling(rng: np.random.Generator, trials: int, *, noise: Noise, share: float, steps: Steps) -> Trials:
    """Some launches, and some sides of rounds, are 10 to 50% slower as a whole."""
    levels = _launches(rng, trials, noise_pct=noise.run_pct)
    levels += (rng.random(levels.shape) < share) * rng.uniform(0.1, 0.5, levels.shape)
    levels = _with_sessions(levels, sessions=_days(rng, trials, noise_pct=noise.session_pct))
    rounds = rng.standard_normal((trials, NUM_ROUNDS)) * noise.round_pct / 100.0
    for sign in (1.0, -1.0):
        rounds += sign * (rng.random(rounds.shape) < share) * rng.uniform(0.1, 0.5, rounds.shape)
    return Trials(times=_with_steps(rng, levels, steps=steps), rounds=rounds)


CALM_STEPS = Steps(noise_pct=0.1)
QUIET_STEPS = Steps(noise_pct=0.5, stall_share=0.01, stall_pct=20.0)
_HEAVY_STEPS = Steps(noise_pct=1.0, dof=3.0, stall_share=0.03, stall_pct=50.0)
_SHARED_STEPS = Steps(noise_pct=5.0, dof=3.0, stall_share=0.05, stall_pct=100.0)
STALL_STEPS = Steps(noise_pct=0.5, dof=5.0, stall_share=0.02, stall_pct=500.0)

_QUIET = Noise(run_pct=0.3, session_pct=0.3, round_pct=0.3)
_OTHER_DAYS = Noise(run_pct=0.5, session_pct=1.0, round_pct=0.5)
_H100 = Noise(run_pct=0.09, session_pct=0.3, round_pct=0.1)
_CLUSTER = Noise(run_pct=1.2, session_pct=1.0, round_pct=1.2)
_SHARED = Noise(run_pct=4.5, session_pct=15.0, round_pct=3.0)
_TWO_SPEEDS = Noise(run_pct=4.5, session_pct=12.5, round_pct=3.0)
_DRIFT = Noise(run_pct=0.5, session_pct=0.5, round_pct=0.5)
_STALLS = Noise(run_pct=0.5, session_pct=0.3, round_pct=0.5)

SCENARIOS = (
    Scenario(
        name="quiet GPU",
        title="0.3% between launches, 0.3% between days, 0.3% between rounds",
        system="h100",
        truth=_QUIET,
        draw=partial(plain, noise=_QUIET, steps=QUIET_STEPS),
    ),
    Scenario(
        name="other days",
        title="0.5% between launches, 1% between days, 0.5% between rounds",
        system="h100",
        truth=_OTHER_DAYS,
        draw=partial(plain, noise=_OTHER_DAYS, steps=QUIET_STEPS),
    ),
    Scenario(
        name="H100",
        title="0.09% between launches, 0.3% between days, 0.1% between rounds",
        system="h100",
        truth=_H100,
        draw=partial(plain, noise=_H100, steps=CALM_STEPS),
    ),
    Scenario(
        name="cluster",
        title="1.2% between launches, 1% between days, 1.2% between rounds; steps and rounds heavy-tailed",
        system="h100",
        truth=_CLUSTER,
        draw=partial(plain, noise=_CLUSTER, steps=_HEAVY_STEPS, dof=4.0),
    ),
    Scenario(
        name="drift",
        title="0.5% between launches and rounds; each session 0.5% slower than the one before",
        system="h100",
        truth=_DRIFT,
        draw=partial(_drifting, noise=_DRIFT, drift_pct=0.5, steps=QUIET_STEPS),
    ),
    Scenario(
        name="stalls",
        title="0.5% between launches and rounds, 0.3% between days; 2% of steps, launches and sides of rounds stall",
        system="h100",
        truth=_STALLS,
        draw=partial(stalling, noise=_STALLS, share=0.02, steps=STALL_STEPS),
    ),
    Scenario(
        name="shared CPU",
        title="4.5% between launches, each correlated 0.5 with the one before; 15% between days, 3% between rounds",
        system="cpu",
        truth=_SHARED,
        draw=partial(plain, noise=_SHARED, steps=_SHARED_STEPS, correlation=0.5),
    ),
    Scenario(
        name="two speeds",
        title="sessions at one of two speeds 25% apart; 4.5% between launches, 3% between rounds",
        system="cpu",
        truth=_TWO_SPEEDS,
        draw=partial(_two_speeds, noise=_TWO_SPEEDS, apart_pct=25.0, steps=_SHARED_STEPS),
    ),
)
