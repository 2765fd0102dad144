"""Slow decay: every accepted change loses a little, less than is allowed, and then becomes the baseline.

Beside the newest baseline a release anchor is kept. A session compares with both, what either does not clear in rounds
with its own commit, and either fails it; that is simulated here, update after update, until one is called a regression.
"""

from __future__ import annotations

import random
import statistics
from dataclasses import dataclass

from rates import interval_pct
from rules import METRIC, policy_of, run_session

from pytest_nemoperf.verdict.defaults import DEFAULT_RUNS
from pytest_nemoperf.verdict.sequential import Decision, cost_of_loss

NUM_UPDATES = 12
SYSTEM = "h100"
RUN_PCT = 0.5
SESSION_PCT = 0.3
ROUND_PCT = 0.5
_DECAY_PCT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftRow:
    """One row of the table: decay per update, with an anchor or not, and the loss at which it was caught.

    Attributes:
        decay_pct: Loss of each update, percent.
        has_anchor: An anchor is kept beside the newest baseline.
        caught_pct: Histories that had a REGRESSED, percent.
        interval: Its 95% interval.
        median_loss_pct: Loss since the anchor at which it was called; None if there was no decay or none was called.
        with_rounds_pct: Sessions that were compared in rounds, percent.
    """

    decay_pct: float
    has_anchor: bool
    caught_pct: float
    interval: tuple[float, float]
    median_loss_pct: float | None
    with_rounds_pct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _History:
    """Updates until a regression was called: its number, if any, and the sessions with and without rounds."""

    caught_at: int | None
    sessions: int
    with_rounds: int


def drift_rows(*, trials: int, seed: int) -> list[DriftRow]:
    """Return the four rows: with and without decay, with and without an anchor."""
    rows = []
    for decay in (0.0, _DECAY_PCT):
        for has_anchor in (False, True):
            rows.append(_row(decay_pct=decay, has_anchor=has_anchor, trials=trials, seed=seed))
    return rows


def _row(*, decay_pct: float, has_anchor: bool, trials: int, seed: int) -> DriftRow:
    rng = random.Random(f"{seed} {decay_pct}")  # noqa: S311 (no secrets here)
    histories = [_history(rng, decay_pct=decay_pct, has_anchor=has_anchor) for _ in range(trials)]
    losses = [each.caught_at * decay_pct for each in histories if each.caught_at is not None]
    return DriftRow(
        decay_pct=decay_pct,
        has_anchor=has_anchor,
        caught_pct=100.0 * len(losses) / trials,
        interval=interval_pct(len(losses), trials=trials),
        median_loss_pct=statistics.median(losses) if losses and decay_pct else None,
        with_rounds_pct=100.0 * sum(each.with_rounds for each in histories) / sum(each.sessions for each in histories),
    )


def _history(rng: random.Random, *, decay_pct: float, has_anchor: bool) -> _History:
    policy = policy_of(SYSTEM)

    def runs(update: int, count: int) -> list[float]:
        level = cost_of_loss(update * decay_pct, metric=METRIC) + rng.gauss(0.0, SESSION_PCT / 100.0)
        return [level + rng.gauss(0.0, RUN_PCT / 100.0) for _ in range(count)]

    anchor = runs(0, DEFAULT_RUNS)
    newest = anchor
    newest_update = 0
    with_rounds = 0
    for update in range(1, NUM_UPDATES + 1):
        now = runs(update, policy.max_runs)
        against = [(newest, newest_update)]
        if has_anchor and update > 1:
            against.append((anchor, 0))
        rounds = 0
        is_caught = False
        for before, of_update in against:
            loss = cost_of_loss(update * decay_pct, metric=METRIC) - cost_of_loss(of_update * decay_pct, metric=METRIC)
            ratios = [loss + rng.gauss(0.0, ROUND_PCT / 100.0) for _ in range(policy.confirming_rounds)]
            session = run_session(before, sessions=(), now=now, rounds=ratios, policy=policy)
            rounds += session.rounds
            is_caught = is_caught or session.decision is Decision.WORSE
        with_rounds += rounds > 0
        if is_caught:
            return _History(caught_at=update, sessions=update, with_rounds=with_rounds)
        newest = runs(update, DEFAULT_RUNS)
        newest_update = update
    return _History(caught_at=None, sessions=NUM_UPDATES, with_rounds=with_rounds)
