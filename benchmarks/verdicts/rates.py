"""Counts over trials with known truth, and their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from old_rule import OLD_TOLERANCES_PCT, load_old_rule
from rules import BEFORE, METRIC, MODES, PEERS, USUAL, Call, Calls, before_this, found_costs, ours, question_of
from scenarios import Scenario, Trials, shifted
from scipy.stats import beta

from pytest_nemoperf.verdict.sequential import cost_of_loss, loss_of_cost

REPORT_SEED = 2026
"""Rules were tuned on other seeds (1 to 9), with the same generators."""
NO_LOSS = "none"
AT_TOLERANCE = "allowed"
AT_FOUND = "found"
LOSSES = (NO_LOSS, AT_TOLERANCE, AT_FOUND)
CURVE_LOSSES_PCT = {
    "h100": tuple(number / 2.0 for number in range(17)),
    "cpu": tuple(number * 2.5 for number in range(17)),
}
_CURVE_SHARE = 5
"""Trials of a table over those of a point of a curve."""
_CHUNK = 2_000
_INTERVAL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What one rule did with the trials of one scenario and one loss.

    Attributes:
        scenario: Its name.
        rule: Its name: a mode of ours, or a peer's.
        loss: The loss: one of LOSSES, or a percentage.
        loss_pct: The same in percent; of AT_FOUND the median, as each baseline finds another loss.
        counts: Trials by Call.
        launches: Launches in all.
        rounds: Rounds in all.
        with_rounds: Trials that were compared in rounds.
    """

    scenario: str
    rule: str
    loss: str
    loss_pct: float
    counts: tuple[int, int, int, int]
    launches: int
    rounds: int
    with_rounds: int

    @property
    def trials(self) -> int:
        """Number of trials."""
        return sum(self.counts)

    @property
    def launches_each(self) -> float:
        """Launches a trial."""
        return self.launches / self.trials

    @property
    def rounds_each(self) -> float:
        """Rounds of a trial that was compared in rounds."""
        return self.rounds / max(self.with_rounds, 1)

    @property
    def with_rounds_pct(self) -> float:
        """Percentage of trials that were compared in rounds."""
        return 100.0 * self.with_rounds / self.trials

    def share_pct(self, *calls: Call) -> float:
        """Return the percentage of trials that were called one of these."""
        return 100.0 * sum(self.counts[call] for call in calls) / self.trials

    def with_interval(self, *calls: Call) -> str:
        """Return that percentage with its 95% interval (Clopper and Pearson)."""
        low, high = interval_pct(sum(self.counts[call] for call in calls), trials=self.trials)
        return f"{self.share_pct(*calls):.2f} ({low:.2f} to {high:.2f})"


def interval_pct(count: float, *, trials: float) -> tuple[float, float]:
    """Return the exact 95% interval of a share, in percent."""
    tail = (1.0 - _INTERVAL) / 2.0
    low = 0.0 if count == 0 else float(beta.ppf(tail, count, trials - count + 1))
    high = 1.0 if count == trials else float(beta.ppf(1.0 - tail, count + 1, trials - count))
    return 100.0 * low, 100.0 * high


def cell_of(results: Sequence[Calls], *, scenario: str, rule: str, loss: str, loss_pct: float) -> Cell:
    """Return the counts of a rule's calls."""
    calls = np.concatenate([result.calls for result in results])
    rounds = np.concatenate([result.rounds for result in results])
    found = np.bincount(calls, minlength=len(Call))
    return Cell(
        scenario=scenario,
        rule=rule,
        loss=loss,
        loss_pct=loss_pct,
        counts=(int(found[0]), int(found[1]), int(found[2]), int(found[3])),
        launches=int(sum(result.launches.sum() for result in results)),
        rounds=int(rounds.sum()),
        with_rounds=int((rounds > 0).sum()),
    )


def cells_of(scenario: Scenario, *, trials: int, seed: int) -> list[Cell]:
    """Return every rule's counts on the same trials of a scenario, at every loss."""
    results: dict[tuple[str, str], list[Calls]] = {}
    losses_pct: dict[tuple[str, str], list[float]] = {}
    for drawn in _drawn(scenario, trials=trials, seed=seed):
        for mode in MODES:
            question = question_of(scenario, mode=mode)
            costs = {
                NO_LOSS: np.zeros(1),
                AT_TOLERANCE: np.full(1, cost_of_loss(scenario.tolerance_pct, metric=METRIC)),
                AT_FOUND: found_costs(drawn, question),
            }
            for loss, cost in costs.items():
                slowed = shifted(drawn, cost=cost)
                results.setdefault((mode.name, loss), []).append(ours(slowed, question))
                median = loss_of_cost(float(np.median(cost)), metric=METRIC)
                losses_pct.setdefault((mode.name, loss), []).append(median)
                if mode is USUAL:
                    for peer, rule in PEERS.items():
                        results.setdefault((peer, loss), []).append(rule(slowed, question))
                        losses_pct.setdefault((peer, loss), []).append(median)
        if load_old_rule() is not None:
            question = question_of(scenario, mode=USUAL)
            old_tolerance_pct = OLD_TOLERANCES_PCT[scenario.system]
            for loss, loss_pct in ((NO_LOSS, 0.0), (AT_TOLERANCE, old_tolerance_pct)):
                slowed = shifted(drawn, cost=cost_of_loss(loss_pct, metric=METRIC))
                results.setdefault((BEFORE, loss), []).append(before_this(slowed, question))
                losses_pct.setdefault((BEFORE, loss), []).append(loss_pct)
    cells = []
    for (rule_name, loss), calls in results.items():
        loss_pct = float(np.median(losses_pct[rule_name, loss]))
        cells.append(cell_of(calls, scenario=scenario.name, rule=rule_name, loss=loss, loss_pct=loss_pct))
    return cells


def curves_of(scenario: Scenario, *, trials: int, seed: int) -> list[Cell]:
    """Return the counts of ours and of the rule of before by loss, with fewer trials a loss."""
    question = question_of(scenario, mode=USUAL)
    rules = {USUAL.name: ours}
    if load_old_rule() is not None:
        rules[BEFORE] = before_this
    results: dict[tuple[str, float], list[Calls]] = {}
    for drawn in _drawn(scenario, trials=max(trials // _CURVE_SHARE, 1), seed=seed):
        for loss_pct in CURVE_LOSSES_PCT[scenario.system]:
            slowed = shifted(drawn, cost=cost_of_loss(loss_pct, metric=METRIC))
            for name, rule in rules.items():
                results.setdefault((name, loss_pct), []).append(rule(slowed, question))
    cells = []
    for (name, loss_pct), calls in results.items():
        cells.append(cell_of(calls, scenario=scenario.name, rule=name, loss=f"{loss_pct:g}", loss_pct=loss_pct))
    return cells


def pick(cells: Sequence[Cell], *, scenario: str, rule: str, loss: str) -> Cell:
    """Return the one cell of these."""
    return next(cell for cell in cells if (cell.scenario, cell.rule, cell.loss) == (scenario, rule, loss))


def _drawn(scenario: Scenario, *, trials: int, seed: int) -> Iterator[Trials]:
    """Yield the trials of a scenario, in parts that fit into memory."""
    rng = np.random.default_rng([seed, *scenario.name.encode()])
    whole, rest = divmod(trials, _CHUNK)
    for size in [_CHUNK] * whole + ([rest] if rest else []):
        yield scenario.draw(rng, size)
