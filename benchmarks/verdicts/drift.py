"""Slow decay: every accepted change loses a little, less than the tolerance, and then becomes the baseline.

Beside the newest baseline a release anchor is kept. A session launches until both comparisons are decided, and either
of them fails it; that is what is simulated here, update after update, until something is called a regression.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass

from rates import interval_pct

from pytest_nemoperf.records.metrics import TOKENS_PER_SEC_PER_GPU
from pytest_nemoperf.verdict.defaults import DEFAULT_RUNS
from pytest_nemoperf.verdict.sequential import Decision, SequentialRule, cost_of_loss, decide

NUM_UPDATES = 12
TOLERANCE_PCT = 3.0
NOISE_PCT = 0.5
PRIOR_PCT = 1.0
_BASELINE_RUNS = DEFAULT_RUNS
_DECAY_PCT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRow:
    """One row of the table: decay per update, with an anchor or not, and when it was caught."""

    decay_pct: float
    has_anchor: bool
    caught_pct: float
    interval: tuple[float, float]
    median_loss_pct: float | None
    launches: float


def drift_rows(*, trials: int, seed: int) -> list[DriftRow]:
    """Return the four rows: with and without decay, with and without an anchor."""
    return [
        _row(decay_pct=decay, has_anchor=has_anchor, trials=trials, seed=seed)
        for decay in (0.0, _DECAY_PCT)
        for has_anchor in (False, True)
    ]


def _row(*, decay_pct: float, has_anchor: bool, trials: int, seed: int) -> DriftRow:
    rng = random.Random(f"{seed} {decay_pct}")  # noqa: S311 (no secrets here)
    histories = [_history(rng, decay_pct=decay_pct, has_anchor=has_anchor) for _ in range(trials)]
    losses = [update * decay_pct for update, _ in histories if update is not None]
    return DriftRow(
        decay_pct=decay_pct,
        has_anchor=has_anchor,
        caught_pct=100.0 * len(losses) / trials,
        interval=interval_pct(len(losses), trials=trials),
        median_loss_pct=statistics.median(losses) if losses and decay_pct else None,
        launches=statistics.fmean(launches for _, launches in histories),
    )


def _history(rng: random.Random, *, decay_pct: float, has_anchor: bool) -> tuple[int | None, float]:
    """Return the update at which a regression was called, if any, and launches a session."""
    rule = SequentialRule(noise_pct=PRIOR_PCT)
    tolerance = cost_of_loss(TOLERANCE_PCT, metric=TOKENS_PER_SEC_PER_GPU)

    def runs(update: int, count: int) -> list[float]:
        level = cost_of_loss(update * decay_pct, metric=TOKENS_PER_SEC_PER_GPU)
        return [level + rng.gauss(0.0, NOISE_PCT / 100.0) for _ in range(count)]

    anchor = newest = runs(0, _BASELINE_RUNS)
    launches = 0
    for update in range(1, NUM_UPDATES + 1):
        now = runs(update, rule.max_runs)
        against = (newest, anchor) if has_anchor and update > 1 else (newest,)
        for count in range(1, rule.max_runs + 1):
            found = {decide(then, now[:count], tolerance=tolerance, rule=rule).decision for then in against}
            if Decision.WORSE in found or Decision.UNDECIDED not in found:
                break
        launches += count
        if Decision.WORSE in found:
            return update, launches / update
        newest = runs(update, _BASELINE_RUNS)
    return None, launches / NUM_UPDATES
